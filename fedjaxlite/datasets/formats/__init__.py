"""Files in the formats of other federated data sets, and data sets of Hugging Face.

    leaf.py            LEAF's JSON: FEMNIST, Sent140, Shakespeare, CelebA, synthetic
    fedjax_sqlite.py   FedJAX's SQLite files
    tff_sqlite.py      TFF's SQLite files, whose rows are `tf.train.Example`s: tf_example.py reads those
    array_folders.py   a folder of .npz files, of folders of .npy files, or of folders of images by class
    parquet.py         Parquet files larger than memory, streamed into a folder by client
    array_record.py    ArrayRecord files likewise
    huggingface.py     a `datasets.Dataset` that is already there
    text.py            functions that make ids of words and characters, for `encode=`
    parts.py           what a folder with train and test gives        sqlite.py   a database, opened for reading

What comes in: one format a file; each holds one file, or one batch of rows, at a time beside the arrays themselves.
"""

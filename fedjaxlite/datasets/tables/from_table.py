"""`from_table`: a table of rows, of which each is somebody's, as a population."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedjaxlite import checks
from fedjaxlite.datasets.tables import csv_files, sources
from fedjaxlite.datasets.tables import kinds as kinds_
from fedjaxlite.datasets.tables.roles import roles_of
from fedjaxlite.datasets.tables.table import Table, Wish, read_until_it_fits
from fedjaxlite.partition import split

MISSING_WORDS = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL")
_TESTS = (None, "clients", "within", "stratified", "time")


def from_table(
    source: Any,
    *,
    client: str,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    encoding: str = "utf8",
    missing_words: Sequence[str] = MISSING_WORDS,
    missing: str = "refuse",
    unlabeled: str | None = None,
    keep_mask: bool = False,
    categories: str = "one-hot",
    categorical: Sequence[str] | Mapping[str, Sequence[Any] | None] = (),
    max_categories: int = 100,
    dates: str = "refuse",
    target: str | None = None,
    classes: Sequence[Any] | Mapping[Any, Any] | None = None,
    features: Sequence[str] | Mapping[str, str | Sequence[str]] = (),
    drop: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
    like: Table | None = None,
    test: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Table:
    r"""Reads a table, a row an example, and gives each row to its client.

    All columns that no argument names are inputs: numbers, and true and false, as float32, which holds whole numbers up
    to 2**24; text as categories. Files are read twice, block by block: first who owns what, then the inputs, each row
    straight to its place. So a table takes the memory of what it becomes, and a block of it.

    Args:
      source: a CSV file (.csv, .tsv, .data, .txt; also .gz, .bz2, .zst), a Parquet or an Arrow file (.parquet, .arrow,
        .feather), a folder or a pattern ("visits/*.csv") of these, a pyarrow Table, a pandas or polars frame, or a list
        of them.
      client: the column that says whose a row is, of whole numbers or text (spaces around it do not count); "file"
        makes a client of each file.
      label: the column to predict, feature "y": int32 classes or float32 numbers. None for tables without.
      columns: the names of the columns of CSV files without a header.
      delimiter: between the values of CSV files; None for commas, and tabs in .tsv.
      encoding: of CSV files.
      missing_words: what stands for a missing value in CSV files and in columns of text, spaces around it aside.
      missing: what happens to rows with missing inputs: "refuse" is an error that counts them; "keep" leaves NaN in
        "x", for a federated imputer (a category that is missing is NaN in all its columns); "drop" leaves them out.
      unlabeled: the same for rows without a label; "keep" for labels that are numbers. None does as `missing`, but
        refuses where that keeps.
      keep_mask: add the feature "missing", bool `[n, d]`.
      categories: "one-hot", a column of 0 and 1 for each word; or "codes", the place of the word in `Table.categories`.
      categorical: columns of numbers that are codes of categories, in the same way, as those are that a frame has as
        such; or a dict to the words of a column in their order, None for those that it holds, ascending.
      max_categories: refuse text columns with more words: most of them are ids.
      dates: "refuse" dates among the inputs, or make "days" since 1970 of them, as float32: exact to minutes.
      target: "classes" or "numbers", where the label does not tell. Text, true and false, and at most 20 whole numbers
        are classes; other numbers are numbers; more whole numbers are refused.
      classes: the label's words in their order, ascending where not given; or a dict from a word to its class, such as
        {0: "healthy", 1: "ill", 2: "ill"}.
      features: columns to keep as features of their own: names, or a dict from a feature's name to one column or
        several. Whole numbers stay int32, and text becomes codes.
      drop: columns to leave out.
      group: a column, such as the recording that a window is of, to keep as an int32 feature of this name; splits keep
        its rows together.
      time: a column to sort each client's rows by.
      like: an earlier Table: the same inputs, words and classes, for files that are read apart.
      test: None; "clients" sets whole clients aside; "within" splits each client's rows, at random; "stratified" so
        that each client's share of each class stays; "time" takes each client's last rows. See `fl.partition`.
      test_fraction: how large the test part is.
      seed: of the split.

    Returns:
      a Table. The words of categories and classes are those of all clients: for a run in which they are secrets, give
      them by `categorical` and `classes`.

    Raises:
      ModuleNotFoundError: pyarrow is not installed.
      FileNotFoundError: there is no such file.
      ValueError, TypeError: a column that is not there, values that are missing or do not fit their column; the text
        says which column and row (counted from 1, after the header), and what to do.

    Guarantees:
      Every row of the table is in the population once, unless it is counted in `dropped`; rows of a client keep their
      order, unless `time` sorts them.

    Example:
      >>> import pathlib, tempfile
      >>> import fedjaxlite as fl
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = pathlib.Path(folder, "visits.csv")
      ...     _ = file.write_text("hospital,age,sex,ill\nBern,50,f,yes\nBasel,61,m,no\nBern,44,m,no\n")
      ...     table = fl.datasets.from_table(file, client="hospital", label="ill")
      >>> table.columns, table.classes
      (('age', 'sex=f', 'sex=m'), ('no', 'yes'))
      >>> table.population.client("Bern")["x"].tolist(), table.population.client("Bern")["y"].tolist()
      ([[50.0, 1.0, 0.0], [44.0, 0.0, 1.0]], [1, 0])
    """
    test = checks.one_of(_TESTS, test=test)
    target = checks.one_of((None, "classes", "numbers"), target=target)
    unlabeled = checks.one_of((None, "refuse", "keep", "drop"), unlabeled=unlabeled)
    _check_label(label, target, classes, unlabeled)
    if like is not None:
        checks.one_instance(Table, "a Table, as from_table gives it, or None", like=like)
        classes = like.classes if classes is None else classes
        target = target or (None if like.classes else "numbers")
    wish = Wish(
        missing=checks.one_of(("refuse", "keep", "drop"), missing=missing),
        unlabeled=unlabeled or ("drop" if missing == "drop" else "refuse"),
        keep_mask=checks.flag(keep_mask=keep_mask),
        categories=checks.one_of(("one-hot", "codes"), categories=categories),
        max_categories=checks.positive_int(max_categories=max_categories),
        dates=checks.one_of(("refuse", "days"), dates=dates),
        target=target,
        classes=classes,
        like=like,
        missing_words=_texts("missing_words", missing_words),
    )
    how = csv_files.Format(_names(columns), _delimiter(delimiter), wish.missing_words, checks.text(encoding=encoding))
    parts = sources.parts_of(source, how)
    kinds = {name: kinds_.common({part.kinds[name] for part in parts}) for name in parts[0].kinds}
    roles = roles_of(
        kinds,
        by_file=all(part.path for part in parts),
        client=client,
        label=label,
        group=group,
        time=time,
        drop=drop,
        features=features,
        categorical=categorical,
    )
    declared = {column: None for part in parts for column in roles.inputs if column in part.coded}
    roles = roles._replace(categorical={**declared, **roles.categorical})
    table = read_until_it_fits(parts, roles, kinds, wish)
    return table if test is None else _split(table, test, roles.group, test_fraction, seed)


def _check_label(label: Any, target: Any, classes: Any, unlabeled: Any) -> None:
    if target == "numbers" and classes is not None:
        raise ValueError("target='numbers' has no classes; leave `classes` out.")
    if label is None:
        for name, value in (("target", target), ("classes", classes), ("unlabeled", unlabeled)):
            if value is not None:
                raise ValueError(f"`{name}` is {checks.shown(value)}, and there is no label; name it, label=...")


def _names(columns: Any) -> tuple[str, ...] | None:
    if columns is None:
        return None
    names = _texts("columns", columns)
    repeated = [name for i, name in enumerate(names) if name in names[:i]]
    if repeated or not names:
        raise ValueError(
            f"`columns` holds {repeated[0]!r} twice." if repeated else "`columns` is empty; name them all."
        )
    return names


def _texts(argument: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"`{argument}` is {checks.shown(values)}; expected a list of strings.")
    return tuple(checks.text(f"`{argument}` is a list of strings.", **{argument: value}) for value in values)


def _delimiter(delimiter: Any) -> str | None:
    if delimiter is None:
        return None
    if len(checks.text(delimiter=delimiter)) != 1 or not delimiter.isascii():
        raise ValueError(f"`delimiter` is {delimiter!r}; expected one character, such as ';'.")
    return delimiter


def _split(table: Table, test: str, group: str | None, test_fraction: float, seed: int) -> Table:
    if test == "clients":
        train, held = split.holdout_clients(table.population, fraction=test_fraction, seed=seed)
    else:
        by = "random" if test == "within" else test
        train, held = split.train_test_split(
            table.population, test_fraction=test_fraction, by=by, group=group, seed=seed
        )
    return table._replace(train=train, test=held)

"""Files in the format of three public tables that every hospital, or patient, has a part of; the numbers are made up.

heart disease: UCI 45, four files without a header, one a hospital, "?" for what is missing, as FLamby reads them.
Parkinson's telemonitoring: UCI 189, one file with a header, 42 patients, `total_UPDRS` to predict.
intensive care: a gzip file in the columns of eICU's `patient` table, stays of patients in hospitals.
"""

import csv
import gzip
from pathlib import Path

import numpy as np

HEART_COLUMNS = (
    "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"
)  # fmt: skip
HEART_SIZES = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
_HEART_MISSING = {  # the share of "?" in some columns, about as in the files
    "cleveland": {"ca": 0.013, "thal": 0.007},
    "hungarian": {"chol": 0.08, "fbs": 0.03, "slope": 0.65, "ca": 0.99, "thal": 0.9},
    "switzerland": {"fbs": 0.61, "slope": 0.14, "ca": 0.96, "thal": 0.42, "oldpeak": 0.05},
    "va": {"trestbps": 0.28, "chol": 0.04, "thalach": 0.27, "exang": 0.27, "oldpeak": 0.28, "slope": 0.5, "ca": 0.99, "thal": 0.83},
}  # fmt: skip


def heart_disease(folder: Path, seed: int = 0) -> None:
    """Writes processed.cleveland.data and its three likes into a folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for place, (name, n) in enumerate(HEART_SIZES.items()):
        age = rng.normal(54, 9, n).round().clip(28, 77)
        sex = (rng.random(n) < 0.7 + 0.08 * place).astype(int)
        oldpeak = rng.gamma(1, 1, n).round(1).clip(0, 6)
        thalach = (rng.normal(208 - age, 20, n) - 8 * place).round().clip(60, 202)
        exang = (rng.random(n) < 0.35).astype(int)
        cp = rng.choice([1, 2, 3, 4], n, p=[0.08, 0.17, 0.25, 0.5])
        risk = 0.05 * (age - 54) + sex + 0.7 * oldpeak - 0.03 * (thalach - 150) + exang + (cp == 4) - 2.3 + 0.6 * place
        ill = rng.random(n) < 1 / (1 + np.exp(-risk))
        values = {
            "age": age, "sex": sex, "cp": cp, "trestbps": rng.normal(132, 18, n).round(),
            "chol": np.zeros(n) if name == "switzerland" else rng.normal(246, 51, n).round(),
            "fbs": (rng.random(n) < 0.15).astype(int), "restecg": rng.integers(0, 3, n), "thalach": thalach,
            "exang": exang, "oldpeak": oldpeak, "slope": rng.integers(1, 4, n), "ca": rng.integers(0, 4, n),
            "thal": rng.choice([3, 6, 7], n), "num": np.where(ill, rng.integers(1, 5, n), 0),
        }  # fmt: skip
        number = "{:.1f}".format if name == "cleveland" else "{:g}".format
        text = {c: [number(v) if c != "num" else str(v) for v in values[c]] for c in HEART_COLUMNS}
        for column, share in _HEART_MISSING[name].items():
            for row in np.flatnonzero(rng.random(n) < share):
                text[column][row] = "?"
        with (folder / f"processed.{name}.data").open("w", newline="") as file:
            csv.writer(file).writerows(zip(*text.values(), strict=True))


PARKINSONS_COLUMNS = (
    "subject#", "age", "sex", "test_time", "motor_UPDRS", "total_UPDRS", "Jitter(%)", "Jitter(Abs)", "Jitter:RAP",
    "Jitter:PPQ5", "Jitter:DDP", "Shimmer", "Shimmer(dB)", "Shimmer:APQ3", "Shimmer:APQ5", "Shimmer:APQ11",
    "Shimmer:DDA", "NHR", "HNR", "RPDE", "DFA", "PPE",
)  # fmt: skip


def parkinsons(path: Path, seed: int = 0, patients: int = 42, recordings: int = 140) -> None:
    """Writes parkinsons_updrs.data: about 140 recordings of a voice a patient, with the score on that day."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        write = csv.writer(file).writerow
        write(PARKINSONS_COLUMNS)
        for subject in range(1, patients + 1):
            age, sex = int(rng.integers(36, 86)), int(rng.random() < 0.33)
            level, slope = rng.normal(0, 1), rng.normal(0.01, 0.02)
            for time in np.sort(rng.uniform(-4, 215, rng.integers(recordings - 30, recordings + 30))):
                total = float(np.clip(29 + 9 * level + slope * time + rng.normal(0, 1), 7, 55))
                jitter = float(np.exp(-5.3 + 0.1 * level + 0.5 * rng.normal()))
                shimmer = float(np.exp(-3.5 + 0.1 * level + 0.5 * rng.normal()))
                voice = [jitter, jitter * 0.007, jitter * 0.5, jitter * 0.5, jitter * 1.5]
                voice += [shimmer, shimmer * 9, shimmer * 0.5, shimmer * 0.6, shimmer * 0.8, shimmer * 1.5]
                voice += [rng.gamma(1, 0.03), rng.normal(21.7 - level, 4), rng.uniform(0.3, 0.8), rng.uniform(0.5, 0.8), rng.uniform(0.1, 0.5)]  # fmt: skip
                write(
                    [
                        subject,
                        age,
                        sex,
                        f"{time:.4f}",
                        f"{0.75 * total:.3f}",
                        f"{total:.3f}",
                        *(f"{v:.6g}" for v in voice),
                    ]
                )


def intensive_care(path: Path, seed: int = 0, hospitals: int = 20) -> None:
    """Writes patient.csv.gz: stays in intensive care, some patients with several; ages above 89 are written "> 89"."""
    rng = np.random.default_rng(seed)
    with gzip.open(path, "wt", newline="") as file:
        write = csv.writer(file).writerow
        write(["patientunitstayid", "uniquepid", "gender", "age", "ethnicity", "hospitalid", "unittype",
               "admissionheight", "admissionweight", "unitdischargeoffset", "hospitaldischargestatus"])  # fmt: skip
        stay = 141_000
        for hospital in range(hospitals):
            for patient in range(int(rng.integers(15, 60))):
                age, gender = float(np.clip(rng.normal(64, 16), 18, 99)), rng.choice(["Female", "Male"])
                ethnicity = rng.choice(["Caucasian", "African American", "Hispanic", ""], p=[0.7, 0.15, 0.1, 0.05])
                for _ in range(1 + int(rng.random() < 0.3)):
                    stay += int(rng.integers(1, 9))
                    dead = rng.random() < 1 / (1 + np.exp(3 - 0.05 * (age - 60) - 0.3 * (hospital % 3)))
                    weight = "" if rng.random() < 0.1 else f"{rng.normal(84, 20):.1f}"
                    write([stay, f"{hospital:03d}-{patient}", gender, "> 89" if age > 89 else f"{age:.0f}", ethnicity,
                           60 + 7 * hospital, rng.choice(["MICU", "SICU", "Neuro ICU"]), f"{rng.normal(169, 10):.1f}", weight,
                           int(rng.integers(300, 9000)), "Expired" if dead else "Alive"])  # fmt: skip

"""What every model card says whatever its figures are."""

from __future__ import annotations

SUPERCLASSES = """\
Labels are the five diagnostic superclasses: every SCP code of a
record, at any likelihood, that is diagnostic sets its superclass; records without one are left out."""

OTHER_LABELS = "Labels are those of the task: {task}."

DATA = """\
PTB-XL 1.0.3, the 100 Hz records (`records100`): 12-lead ECGs of 10 s, recorded between 1989 and 1996 with one maker's
devices and annotated by up to two cardiologists. {labels} Folds {folds} train,
fold {tune_folds} tunes, fold 10 tests; all records of a patient are in one fold.

- Licence of the data: Creative Commons Attribution 4.0. The weights were trained on it; this notice is the attribution.
- Wagner P, Strodthoff N, Bousseljot R-D, Kreiseler D, Lunze FI, Samek W, Schaeffter T. PTB-XL, a large publicly
  available electrocardiography dataset. Scientific Data 7:154 (2020). https://doi.org/10.1038/s41597-020-0495-6
- Wagner P, Strodthoff N, Bousseljot R-D, Samek W, Schaeffter T. PTB-XL, a large publicly available electrocardiography
  dataset (version 1.0.3). PhysioNet (2022). https://physionet.org/content/ptb-xl/1.0.3/
- Goldberger A et al. PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101:e215-e220 (2000).
"""

NOISE = """\
- Noise curves: Moody GB, Muldrow WE, Mark RG. A noise stress test for arrhythmia detectors. Computers in Cardiology
  11:381-384 (1984); the recordings are under the Open Data Commons Attribution License 1.0.
"""

USE = """\
For research and for developing systems around ECG streams. It is **not a medical device**: it has not been cleared for
diagnosis or monitoring anywhere, and nothing here shows that acting on its alerts helps anybody.
"""

ALERTS = """\
A class is raised when its probability has been at or above *on* for the dwell time, and cleared when it has been below
*off* for as long. The window holds the patient before until it has passed, so a good part of every delay is the
window's length, whatever the threshold; what the threshold decides is how many changes are noticed at all. Another
budget is tuned in seconds from what is kept: `ecg-trainer tune --budget N`.
"""

FIVE_CLASSES = """\
- Five superclasses. A class is not a diagnosis: MI holds old and new infarctions alike.
"""

LIMITS = """\
- Resting ECGs of 10 s from one data set are all it has seen, few of them of children. No arrhythmia detection, no
  ambulatory ECG, no other population, no other maker's recorder: none of that was trained on or measured.
{classes}\
- A long stream is made of short records here, joined one after another. No recording of hours with known changes was
  used; how a real patient's change looks to the model was not measured.
- False alerts were counted on records that cardiologists called normal. On a ward with other findings there are more.
- Groups by sex and age differ in how often they have which class, and so in how hard they are; the smallest have few
  records. PTB-XL says nothing of ethnicity.
- Twelve leads are needed. A lost lead freezes class alerts, as bad signal quality does.
- Where figures are said to flatter the model, the same records chose weights, thresholds or calibration.
"""

"""Made-up scans with a known truth: delete this module when you bring your own.

A scan is a smooth background, half of it the patient's own, with the noise of its device. A lesion is a small
round spot; a vessel, which many normal scans show, is a long one of the same contrast. Both are anywhere, so
no pixel tells them apart: only shapes do.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

SIZE, MARGIN = 32, 4  # pixels; centres of spots keep the margin
BACKGROUND, WAVES = 0.12, 1.5  # standard deviation of the grey levels, typical waves per side
NOISE = {"A": 0.05, "B": 0.07}  # standard deviation by device
CONTRAST = 0.3
LESIONS = ((1.2, 1.2, 0.0), (1.8, 1.8, 0.0))  # width, length, angle
VESSELS = tuple((1.0, 4.0, angle * np.pi / 4) for angle in range(4))
ILL, LESION_IF_ILL, VESSEL_IF_NORMAL = 0.5, 0.6, 0.5

_waves = np.fft.fftfreq(SIZE) * SIZE
_power = np.exp(-(_waves[:, None] ** 2 + _waves**2) / (2 * WAVES**2))
SPECTRUM = _power * (BACKGROUND * SIZE) ** 2 / _power.sum()  # of the background

Images = NDArray[np.float64]  # (n_scans, SIZE, SIZE), grey levels from 0 to 1


def write_scans(folder: Path, n_patients: int = 800, scans_per_patient: int = 4, seed: int = 0) -> Path:
    """Write PNG files and the manifest that names them; return the path of the manifest."""
    random, rows, images = np.random.default_rng(seed), [], []
    for patient in range(n_patients):
        own, is_ill = _background(random), random.random() < ILL
        device, sex = str(random.choice(list(NOISE))), str(random.choice(["f", "m"]))
        for scan in range(scans_per_patient):
            has_lesion = is_ill and random.random() < LESION_IF_ILL
            noise = random.normal(0, NOISE[device], (SIZE, SIZE))
            image = (own + _background(random)) / np.sqrt(2) + noise
            if has_lesion or random.random() < VESSEL_IF_NORMAL:
                centre = random.integers(MARGIN, SIZE - MARGIN, 2) - SIZE // 2
                spots = LESIONS if has_lesion else VESSELS
                spot = spots[random.integers(len(spots))]
                image += CONTRAST * np.roll(_spot(*spot), centre, (0, 1))
            brightness = random.uniform(0.35, 0.55)
            images.append(np.round(255 * np.clip(image + brightness, 0, 1)))
            name, finding = f"p{patient:03}s{scan}", "lesion" if has_lesion else "normal"
            rows.append((name, f"p{patient:03}", finding, device, sex, f"{name}.png"))
            Image.fromarray(images[-1].astype(np.uint8)).save(folder / f"{name}.png")
    table = pd.DataFrame(rows, columns=["scan", "patient", "finding", "device", "sex", "file"])
    table["true_probability"] = true_probability(np.stack(images) / 255, table["device"].to_numpy())
    table.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def true_probability(images: Images, devices: NDArray[np.object_]) -> NDArray[np.float64]:
    """Probability of a lesion, given the scan and all that is drawn above: no model can know more.

    The ideal observer of a signal of unknown place and shape in Gaussian noise (Barrett and Myers, 2004,
    "Foundations of Image Science", 13.2). It looks at one scan: the patient's others would tell a bit more.
    """
    prior, probabilities = ILL * LESION_IF_ILL, np.empty(len(images))
    for device, noise in NOISE.items():
        rows = np.flatnonzero(devices == device)
        precision = 1 / (SPECTRUM + noise**2)
        precision[0, 0] = 0  # the brightness of a scan tells nothing
        waves = np.fft.fft2(images[rows]) * precision
        lesion, vessel = (
            np.mean([_likelihood_ratio(waves, _spot(*spot), precision) for spot in spots], axis=0)
            for spots in (LESIONS, VESSELS)
        )
        normal = 1 - VESSEL_IF_NORMAL + VESSEL_IF_NORMAL * vessel
        probabilities[rows] = prior * lesion / (prior * lesion + (1 - prior) * normal)
    return probabilities


def _likelihood_ratio(waves: NDArray[np.complex128], spot: Images, precision: Images) -> NDArray[np.float64]:
    """How much likelier each scan is with the spot, at any of its places, than without."""
    template = np.fft.fft2(np.fft.ifftshift(spot))
    energy = (np.abs(template) ** 2 * precision).sum() / SIZE**2
    matches = np.fft.ifft2(waves * template.conj()).real[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.exp(CONTRAST * matches - CONTRAST**2 * energy / 2).mean(axis=(1, 2))


def _background(random: np.random.Generator) -> Images:
    """A smooth random field."""
    return np.fft.ifft2(np.fft.fft2(random.normal(size=(SIZE, SIZE))) * np.sqrt(SPECTRUM)).real


def _spot(width: float, length: float, angle: float) -> Images:
    """A spot in the middle, of height 1."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return np.exp(-((along / length) ** 2) / 2 - (across / width) ** 2 / 2)

# SPDX-License-Identifier: MIT
"""Runs the commands on a folder of cases from practice and prints a table of verdicts.

    python tests/practice.py --cases FOLDER [--only 01 24] [--verbose]

FOLDER holds archives NN_name.tar.gz, each with the inputs of one case. pytest does not collect this
script. Its exit status is 1 if a case failed, and 0 without a folder.
"""

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from scipy import ndimage

REPOSITORY = Path(__file__).resolve().parent.parent
LIMIT = 180  # seconds for a command
EVALUATE, SUPERMASK = "segsrgan.cli.main evaluate", "segsrgan.cli.supermask_predict"
SMALL = "--epoch 1 --steps 1 --patch_size 16 --stride 16 --kernel_gen 4 --kernel_dis 4".split()


class Result:
    """A NIfTI file, its axes brought into RAS order."""

    def __init__(self, path):
        image = nibabel.as_closest_canonical(nibabel.load(path))
        self.array = np.asarray(image.dataobj, dtype=float)
        self.affine, self.path, shape = image.affine, path, self.array.shape[:3]
        self.size = shape * nibabel.affines.voxel_sizes(image.affine)
        self.centre = image.affine[:3] @ [*(np.array(shape) - 1) / 2, 1]

    def is_box(self, size, centre=None, tolerance=0.1):
        """Whether this is the field of view, in mm (RAS); sizes in any order."""
        far = np.abs(np.sort(self.size) - np.sort(size)).max()
        return max(far, 0 if centre is None else distance(self.centre, centre)) <= tolerance

    def like(self, other, factor=1.0):
        """Whether another result has the same grid, within 0.1 mm, and values times a factor."""
        same = self.array.shape == other.array.shape and self.is_box(other.size, other.centre)
        most = 1e-3 * np.abs(self.array).max()
        return same and np.abs(self.array - factor * other.array).max() <= most

    def landmark(self, above=700):
        """Centre of mass in mm (RAS) of the largest object brighter than this, the ventricle."""
        labels, _ = ndimage.label(self.array > above)
        largest = np.argmax(np.bincount(labels.ravel())[1:]) + 1
        return self.affine[:3] @ [*ndimage.center_of_mass(labels == largest), 1]

    def extent(self, above=100):
        """First and last coordinate in mm along z of what is brighter than this."""
        places = np.argwhere(self.array > above) @ self.affine[2, :3] + self.affine[2, 3]
        return np.array([places.min(), places.max()])

    def height(self):
        """Spread in mm along z of what is bright."""
        weights = self.array.sum(axis=(0, 1))
        z = np.arange(len(weights)) * self.affine[2, 2]
        return np.sqrt(np.cov(z, aweights=weights))


class Run:
    """A command that has ended: its status, all its output, and the result files of a job."""

    def __init__(self, folder, status, text):
        self.folder, self.status, self.text = folder, status, text

    def says(self, pattern, name=""):
        """Whether a line with the name matches the pattern, in upper or lower case."""
        lines = [line.strip() for line in re.split(r"[\r\n]+", self.text) if name in line]
        return any(re.search(pattern, line.replace(name, ""), re.IGNORECASE) for line in lines)

    def sr(self, image, name="SR"):
        """The result of an image, None where it has none."""
        place = Path(self.folder, image)
        stem = place.name if place.is_dir() else re.sub(r"\.(\w+\.gz|\w+)$", "", place.name)
        for inner in (place.name, stem, "."):
            for found in place.parent.glob(f"Result_with_*/{inner}/patch_*/{name}_*.nii.gz"):
                if name != "Cortex" or "mask" not in found.name:
                    return Result(found)
        return None


def distance(a, b):
    """Greatest difference of coordinates."""
    return float(np.abs(np.subtract(a, b)).max())


def dice(a, b):
    """Dice of two masks."""
    return 2 * np.sum((a > 0) & (b > 0)) / max(1, np.sum(a > 0) + np.sum(b > 0))


class Case:
    """The commands and checks of each case, by its number."""

    def __init__(self, folder, verbose):
        self.folder, self.verbose, self.facts, self.failures = folder, verbose, [], []

    def check(self, true, fact):
        """Notes a fact, as a failure unless it is true."""
        (self.facts if true else self.failures).append(fact if true else f"not {fact}")

    def run(self, module, *words, **options):
        """Runs a command in the case's folder; a crash and a traceback are failures."""
        program, name = (
            [sys.executable, "-m", *module.split(), *map(str, words)],
            module.split(".")[-1],
        )
        paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        options |= {"env": os.environ | {"PYTHONPATH": paths, "PYTHONUTF8": "1"}, "timeout": LIMIT}
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        try:
            done = subprocess.run(program, cwd=self.folder, check=False, **options)
            status, text = done.returncode, done.stdout.decode("utf-8", "replace")
        except subprocess.TimeoutExpired as error:
            status, text = -1, (error.stdout or b"").decode("utf-8", "replace")
        if self.verbose:
            print(f"$ {module} {' '.join(map(str, words))}\n{text}-> {status}", flush=True)
        if status not in (0, 1, 2) or "Traceback" in text:
            self.check(False, f"{name} without a crash, in {LIMIT} s (status {status})")
        return Run(self.folder, status, text)

    def job(self, *images, mm="1,1,1", patch="32", table="data.csv", more=(), **options):
        """Runs job_model.py on a table, or on these images."""
        if images:
            table = "job.csv"
            (self.folder / table).write_text("\n".join(images) + "\n", encoding="utf-8")
        words = "--path", table, "--patch", patch, "--new_low_res", mm, "--engine", "openvino"
        return self.run("segsrgan.job_model", *words, *more, **options)

    def train(self, table, *more):
        """Runs a training of one update."""
        (self.folder / "out").mkdir(exist_ok=True)
        files = (
            "--dice_file",
            f"out/d_{table}",
            "--mse_file",
            f"out/m_{table}",
            "--csv",
            table,
            *more,
        )
        words = *SMALL, "--new_low_res", 1, 1, 4, "--snapshot_folder", f"out/{table}", *files
        return self.run("segsrgan.SegSRGAN_training", *words)

    def fused(self, *words, out="OUT"):
        """Runs supermask-predict; the run and the masks that it wrote."""
        run = self.run(SUPERMASK, *words, "-o", out)
        return run, sorted(Path(self.folder, out).rglob("mask.nii.gz"))

    def refused(self, run, pattern, *names):
        """Checks that images have no result and a line of each matches the pattern."""
        for name in names:
            ok = run.sr(name) is None and run.says(pattern, f"/{Path(name).name}")
            self.check(ok, f"{name} refused ({pattern})")

    def same(self, run, truth, pattern, *names, factor=1.0):
        """Checks that images give the truth's result, or else a line matches the pattern."""
        for name in names:
            result, truth = run.sr(name), run.sr(truth) if isinstance(truth, str) else truth
            refused = result is None and run.says(pattern, name)
            self.check(refused or result and result.like(truth, factor), f"{name} as the truth")

    def copy(self, files, folder):
        """Copies files into a new folder of the case."""
        (self.folder / folder).mkdir()
        for file in files:
            shutil.copy(file, self.folder / folder)

    def case_01(self):
        self.refused(self.job(), "PixelSpacing", "t2")

    def case_03(self):
        run = self.job("oblique", "exact")
        oblique, exact = run.sr("oblique"), run.sr("exact")
        if oblique is None:
            return self.refused(run, "ImageOrientationPatient", "oblique")
        axes = [
            r.affine[:3, :3] / np.linalg.norm(r.affine[:3, :3], axis=0) for r in (oblique, exact)
        ]
        turned = np.degrees(np.arccos(np.clip((np.trace(axes[0].T @ axes[1]) - 1) / 2, -1, 1)))
        off = distance(oblique.landmark(), exact.landmark())
        self.check(
            turned < 1 and off < 0.5, f"turned {turned:.2f} < 1 degree, {off:.2f} < 0.5 mm off"
        )
        self.check(oblique.is_box(exact.size), f"box of {exact.size} mm")

    def case_04(self):
        run = self.job()
        if run.sr("anon") is None:
            return self.refused(run, r"\b12\b.*(series|UID)|(series|UID).*\b12\b", "anon")
        self.check(run.sr("anon").is_box((48, 56, 48)), "one volume of 12 slices")
        self.check(run.says("warning", "anon"), "warned about")

    def case_06(self):
        run = self.job()
        self.check(run.sr("good.nii.gz"), "good.nii.gz done")
        self.check((self.folder / "data_summary.csv").exists(), "summary written")
        self.check(run.sr("cd") or run.says("error", "/cd"), "series done or named")
        for name in ("pat", "pat_mha"):
            run, masks = self.fused("--path", name, "--alignment", "none", out=f"OUT_{name}")
            ok = masks or run.says("error", "pf.") and not run.says("codec")
            self.check(ok, f"{name} fused or refused by name")

    def case_07(self):
        self.refused(self.job(), "mosaic", "mosaic_0001.dcm", "epi")

    def case_08(self):
        self.copy((self.folder / "study").glob("IM*"), "clean")
        run = self.job("study", "clean", "real_highdicom_seg.dcm", "study/1-seg.dcm")
        self.same(run, "clean", "$^", "study")
        self.refused(run, "segmentation", "real_highdicom_seg.dcm", "study/1-seg.dcm")

    def case_09(self):
        run = self.job()
        self.same(run, "le.dcm", "$^", "implicit.dcm", "rle.dcm", "reversed.dcm")
        self.same(run, "le.dcm", "deflate|endian|syntax", "deflated.dcm", "big_endian.dcm")
        self.same(run, "le.dcm", "$^", "philips_private.dcm", factor=2.5)
        self.refused(run, "position|endian|syntax", "emri_small.dcm", "emri_small_big_endian.dcm")
        words = "damaged|truncated|incomplete|copy it again"
        self.refused(run, words, "emri_small_jpeg_2k_lossless_too_short.dcm")

    def case_10(self):
        run, name = self.job(mm="2,2,2"), "IM_0027_fMAP.dcm"
        if run.sr(name) is None:
            return self.refused(run, "magnitude|field.?map|image ?type|frame ?type", name)
        low, high = run.sr(name).array.min(), run.sr(name).array.max()
        # The field map's values lie between -500 and 500.
        self.check(low >= 0 and high > 600, f"values of the magnitude, {low:.0f} to {high:.0f}")
        self.check(run.says("warning", name), "warned about")

    def case_11(self):
        run, reference = (
            self.job(),
            nibabel.load(self.folder / "ref_Siemens_REST1_w_SMS_PF7-8_6.nii"),
        )
        nibabel.save(reference.slicer[..., :1], self.folder / "first.nii")
        first, one = Result(self.folder / "first.nii"), run.sr("one.dcm")
        self.check(one.is_box(first.size, first.centre, 2), "one.dcm where the reference lies")
        self.same(run, one, "time|temporal", "xa")
        self.check(run.says("(warning|error).*(time|temporal)", "/xa"), "xa: time points named")

    def case_12(self):
        run = self.job(mm="2,2,2")
        header = pydicom.dcmread(self.folder / "epi/201_EPI_asc_CLEAR_0001_01.dcm")
        row, column = np.reshape(np.array(header.ImageOrientationPatient, float), (2, 3))
        centre = 63 / 2 * 3.75 * (row + column) + 32 * np.cross(row, column)
        centre = (centre + [-123.663, -115.617, -27.911]) * [-1, -1, 1]
        self.check(run.sr("epi").is_box((240, 240, 72), centre), "240 x 240 x 72 mm at its place")
        self.check(1500 < run.sr("epi").array.max() < 3100, "values times the slope")
        self.check(run.says("warning.*(temporal|acquisition|trigger|instance)"), "label named")

    def case_13(self):
        run, files = self.job(), list((self.folder / "pdt2").iterdir())
        if run.sr("pdt2") is None:
            self.refused(run, "echo", "pdt2")
            return self.refused(run, "image ?type|phase|magnitude", "pdt2")
        headers = [(file, pydicom.dcmread(file, stop_before_pixels=True)) for file in files]
        first = [f for f, h in headers if float(h.EchoTime) == 20 and "M" in h.ImageType]
        self.copy(first, "first")
        self.same(run, self.job("first").sr("first"), "$^", "pdt2")
        self.check(run.says("warning", "pdt2"), "warned about")

    def case_14(self):
        run = self.job()
        if run.sr("loc") is None:
            return self.refused(run, "localizer|orientation", "loc")
        self.check(min(run.sr("loc").size) <= 30.1, "3 slices, no mixture")
        self.check(run.says(r"warning.*orientation.*\b[36]\b", "loc"), "slices left out counted")

    def case_16(self):
        run = self.job()
        if run.sr("disc") is None:
            return self.refused(run, "orientation|tilt|slabs", "disc")
        self.check(run.says(r"\b8 of 13\b|\b8\b.*left out", "disc"), "8 of 13 slices named")

    def case_17(self):
        run = self.job()
        clean, cortex = run.sr("clean.nii.gz").array, run.sr("clean.nii.gz", "Cortex_mask").array
        x, y = np.indices(clean.shape)[:2] - np.reshape(clean.shape[:2], (2, 1, 1, 1)) / 2
        inside = np.hypot(x, y) < 21
        for name in ("pad", "padded.nii.gz"):
            r = np.corrcoef(run.sr(name).array[inside], clean[inside])[0, 1]
            overlap = dice(run.sr(name, "Cortex_mask").array * inside, cortex * inside)
            ok = r > 0.99 and overlap > 0.9 or run.says("warning.*(padd|range)", f"/{name}")
            self.check(ok, f"{name}: correlation {r:.3f}, Dice {overlap:.2f}, or warned")

    def case_18(self):
        run = self.job("sub-01", "sub-02", "store/ser")
        self.same(run, "store/ser", "$^", "sub-01", "sub-02")

    def case_19(self):
        self.copy((self.folder / "study").glob("IM*"), "clean")
        run = self.job("study", "clean")
        self.same(run, "clean", "$^", "study")
        self.check(run.status == 0, "status 0")

    def case_21(self):
        self.same(self.job(), "ok.nii", "$^", "zero.nii", "z_zero.nii", "negative.nii")

    def case_22(self):
        run = self.job()
        for name in ("wrongmagic.nii", "wrongmagic352.nii", "pair.hdr", "nomagic.nii"):
            array, truth = run.sr(name) and run.sr(name).array, run.sr("ok.nii").array
            ok = run.says("magic|offset", name) if array is None else distance(array, truth) < 1
            self.check(ok, f"{name}: right voxels, or refused by magic or offset")

    def case_24(self):
        run, forms = self.job(), "qform.*sform|sform.*qform"
        warned = run.says(rf"warning.*({forms}).*\d mm|warning.*\d mm.*({forms})", "flair.nii.gz")
        self.check(run.sr("flair.nii.gz") and warned, "done, both forms and mm named")
        run, masks = self.fused("--views", "flair.nii.gz", "--masks", "flair_mask_by_itk.nii.gz")
        self.check(masks or run.says(forms), "supermask: done or both forms named")
        run = self.train("train.csv")
        self.check(run.status == 0 or run.says(forms), "training: done or both forms named")

    def case_28(self):
        run = self.job(mm="2,2,2")
        for name in ("zstat1.nii.gz", "dti_FA.nii.gz", "anatomical.nii"):
            result, source = run.sr(name), Result(self.folder / name)
            self.check(result.is_box(source.size, source.centre, 2), f"{name} at its place")
        lowest = run.sr("zstat1.nii.gz").array.min()
        self.check(lowest < -5, f"negative values kept ({lowest:.1f})")

    def case_29(self):
        run = self.job()
        truth = run.sr("truth_upright.nii.gz")
        for name in ("tilt_q1.nii.gz", "tilt_q0.nii.gz", "tilt_dicom"):
            result = run.sr(name)
            off = distance(result.landmark(), truth.landmark())
            head = distance(result.extent(), truth.extent())
            self.check(off < 1 and head < 1.1, f"{name}: {off:.1f}, head {head:.1f} < 1 mm off")
            self.check(run.says(r"warning.*\d mm", name), f"{name}: warned in mm")
        run, source = self.job("CT_pitch.nii.gz", mm="1.6,1.6,1.6", patch="64"), "CT_pitch.nii.gz"
        place = Result(self.folder / source)
        self.check(run.sr(source).is_box(place.size, place.centre, 1.7), "CT_pitch at its place")

    def case_30(self):
        run = self.job()
        self.refused(run, "RGB", "CIT168_rgba.nii.gz")
        self.refused(run, "complex", "complex.nii.gz")
        self.refused(run, "compress|gzip|error", "double.nii.gz")
        self.refused(run, "float128|128.bit|long double", "f128.nii")
        self.refused(run, "volumes|4-?D|fourth|dimensions", "functional4d.nii", "test.mgz")
        self.refused(run, "MINC", "minc2.mnc", "tiny.mnc")
        self.refused(run, "CIFTI", "row_major.dconn.nii")
        self.refused(run, "AFNI", "scaled+tlrc.HEAD")
        self.refused(run, "compress|unpack|unxz|unzstd", "t2.nii.bz2", "t2.nii.xz", "t2.nii.zst")
        self.check(run.sr("standard.nii.gz").is_box((4, 15, 14), None, 1), "standard.nii.gz done")

    def case_32(self):
        run = self.job()
        self.refused(run, "error.*(annex|datalad)", "locked.nii.gz", "unlocked.nii.gz")
        self.refused(run, "error.*lfs", "lfs.nii.gz")
        self.refused(run, "error.*(html|web)", "html.nii.gz")
        store = [(file, file.read_bytes()) for file in (self.folder / "annex").iterdir()]
        run = self.job(table="same_content.csv")
        for name in ("sub-01/t2.nii.gz", "sub-02/t2.nii.gz"):
            self.check(run.sr(name), f"{name} done")
        self.check(all(file.read_bytes() == old for file, old in store), "object untouched")

    def case_33(self):
        run, original = self.job(), Result(self.folder / "clean.nii.gz").array
        clean, cortex = run.sr("clean.nii.gz").array, run.sr("clean.nii.gz", "Cortex_mask").array
        for name in ("spike.nii.gz", "vessel.nii.gz"):
            hot = np.abs(Result(self.folder / name).array - original) > 1
            hot = ndimage.zoom(hot, np.divide(clean.shape, hot.shape), order=0)
            far = ndimage.distance_transform_edt(~hot) > 6
            error = np.sqrt(np.mean((run.sr(name).array - clean)[far] ** 2))
            psnr = 20 * np.log10(clean.max() / max(error, 1e-9))
            overlap = dice(run.sr(name, "Cortex_mask").array * far, cortex * far)
            ok = psnr > 35 and overlap > 0.9 or run.says("warning.*(bright|percentile|outl)", name)
            self.check(ok, f"{name}: {psnr:.1f} > 35 dB, Dice {overlap:.2f} > 0.9, or warned")

    def case_34(self):
        run = self.job()
        for name in ("spm_nan.nii.gz", "one_inf.nii.gz"):
            finite = run.sr(name) is None or np.isfinite(run.sr(name).array).all()
            self.check(finite and run.says(r"\d+ of 32256", name), f"{name}: counted, no NaN")
        run = self.run(EVALUATE, "--path", "ev.csv")
        self.check(run.status == 0 or run.says("nan|finite|repair"), "evaluate: done or named")

    def case_35(self):
        label, limit = "576073732", "16777216|16,777,216|2\\^24|2\\*\\*24"
        words = "--labels", label, "--predicted_labels", label, "--metrics", "dice,volume"
        run = self.run(EVALUATE, "--path", "ev.csv", *words)
        self.check(run.says(r"0\.857") or run.says(limit), "Dice 0.857, or refused")
        words = "--views", "stack.nii.gz", "--masks", "reference.nii.gz", "--labels", label
        run, masks = self.fused(*words, "--alignment", "none")
        self.check(masks or run.says(limit), "supermask: label found, or refused")

    def case_36(self):
        run = self.job(mm="1,1,0.5")
        truth, scan = Result(self.folder / "hr.nii.gz"), Result(self.folder / "lr.nii.gz")
        result = run.sr("lr.nii.gz")
        fits = result.array.shape[2] == 60 and result.is_box(scan.size, scan.centre)
        self.check(fits, "60 slices, the scan's field of view")
        off = distance(result.landmark(760), truth.landmark(760))
        self.check(off < 0.3, f"ventricle {off:.2f} < 0.3 mm off")
        size = result.height() / truth.height()
        self.check(abs(size - 1) < 0.02, f"head's height times {size:.3f}")
        # The slices are samples of the truth, as thick as its voxels.
        self.job(mm="1,1,0.5", more=("--thickness", 0.5, "--overwrite"))
        table = f"image,reference_image,baseline\n{result.path},hr.nii.gz,lr.nii.gz\n"
        (self.folder / "ev.csv").write_text(table)
        self.run(EVALUATE, "--path", "ev.csv", "--resample", "--csv", "measures.csv")
        lines = (self.folder / "measures.csv").read_text().splitlines()[:2]
        row = dict(zip(*(line.split(",") for line in lines), strict=True))
        psnr, spline = float(row["psnr"]), float(row["psnr_spline"])
        self.check(psnr > spline - 0.5, f"PSNR {psnr:.2f} dB near the spline's {spline:.2f}")

    def case_37(self):
        for table in ("sep.csv", "cp1252.csv", "utf16.csv"):
            run = self.job(table=table, more=("--overwrite",), mm="1,1,2")
            ok = len(re.findall(r"\bfinished\b", run.text)) == 2 and "failed" not in run.text
            self.check(ok, f"{table}: both done")
        run = self.job(table="macroman.csv", more=("--overwrite",), mm="1,1,2")
        both = run.text.count(" finished ") == 2 or run.status and run.says("e.nii.gz")
        self.check(both, "macroman.csv: both done or path named")
        run = self.run(EVALUATE, "--path", "ev_sep.csv")
        self.check(run.status == 0 or run.says("sep="), "ev_sep.csv done or named")
        run, masks = self.fused("--path", "patients_sep.csv", "--alignment", "none")
        self.check(masks or run.says("sep="), "patients_sep.csv done or named")
        for table, reason in (
            ("train_semicolon.csv", "semicolon|comma"),
            ("train_cp1252.csv", "UTF-8"),
        ):
            run = self.train(table)
            self.check(run.status == 0 or run.says(reason), f"{table} done or named")

    def case_38(self):
        (self.folder / "sub").chmod(0o555)
        # Root may write anywhere unless its process drops CAP_DAC_OVERRIDE (prctl 24).
        run = self.job(preexec_fn=lambda: ctypes.CDLL(None).prctl(24, 1, 0, 0, 0))
        (self.folder / "sub").chmod(0o755)
        self.check(run.status == 1 and "100%" not in run.text, "said before computing, status 1")
        self.check(run.says("error.*(permission|read-only).*(--|folder)"), "reason and way out")

    def case_39(self):
        run = self.job()
        for name in ("microns_true.nii", "um.nrrd", "um.mha"):
            self.check(run.sr(name) and run.sr(name).is_box((48, 56, 48)), f"{name}: 1x1x4 mm")
        for name in ("metres.nii", "nospacing.nrrd", "nospacing.mha"):
            self.check(
                run.says("(error|warning).*(mm|spacing|voxel)", name), f"{name} warned about"
            )

    def case_40(self):
        run = self.job()
        names = "las.nrrd", "list.nhdr", "kinds_list1.nrrd", "compressed.mha", "Detached Header.mhd"
        self.same(run, "ok.nrrd", "$^", *names)
        self.same(run, "ok.nrrd", "matrix|direction", "scaled_matrix.mha")
        first, second = run.sr("sheared.nrrd"), run.sr("sheared.nii.gz")
        off = distance(first.landmark(), second.landmark()) if first and second else None
        self.check(
            first is second or off is not None and off < 0.5, f"sheared: {off} < 0.5 mm apart"
        )
        self.refused(run, r"gone\.zraw", "missing.mhd")

    def case_41(self):
        run, masks = self.fused("--path", "p.csv")
        geometries = run.says(r"1 ?x ?1 ?x ?1\b.*\b4\b|\b4\b.*1 ?x ?1 ?x ?1\b", "eye")
        self.check(run.status == 1 and geometries, "eye: status 1, both geometries named")
        self.check("shift" in {mask.parent.name for mask in masks}, "shift used")

    def case_42(self):
        counts = {}
        for file in sorted(self.folder.glob("mask_*")) + sorted(self.folder.glob("p*.nii.gz")):
            run, masks = self.fused("--views", "stack.nii.gz", "--masks", file.name, out=file.stem)
            counts[file.name] = int(Result(masks[0]).array.sum()) if masks else 0
            ok = abs(counts[file.name] / counts["mask_255.nii.gz"] - 1) <= 0.01
            self.check(
                ok or not masks and run.says("value", file.name), f"{file.name} {counts[file.name]}"
            )

    def case_43(self):
        run, masks = self.fused("--path", "p.csv")
        self.check("one" in {mask.parent.name for mask in masks}, "patient one done")
        self.check(run.status == 1, "status 1")
        self.check(run.says("volumes|4-?D|fourth|dimensions", "axial.nii.gz"), "4-D stack named")
        self.check(run.says("twice|same|one stack", "sagittal.nii.gz"), "twin named")

    def case_44(self):
        words = "--views", "axial_t2.nii.gz", "coronal_t1.nii.gz", "--masks", "axial_mask.nii.gz"
        _, masks = self.fused(*words, "coronal_mask.nii.gz", "--alignment", "classical")
        record = json.loads((masks[0].parent / "results.json").read_text())["results"][""]
        turned, overlap = record["views"][1]["turned_degrees"], record["agreement"][0]["dice"]
        self.check(abs(turned - 14.4) < 2, f"turned by {turned:.1f} degrees")
        self.check(overlap > 0.85, f"Dice {overlap:.3f} > 0.85")
        words = "--views", "nearly_iso.nii.gz", "--masks", "nearly_iso_mask.nii.gz"
        self.check(self.fused(*words, out="iso")[1], "nearly_iso done")

    def case_45(self):
        run, masks = self.fused("--path", "pats", "--alignment", "none")
        names = {mask.parent.name.casefold() for mask in masks}
        self.check(
            run.status == 0 and len(masks) == len(names) == 3, f"three folders {sorted(names)}"
        )

    def case_46(self):
        for name, reason in (("eye", "beside|grid|header"), ("255", "255"), ("fs", "42")):
            run = self.train(f"train_{name}.csv")
            self.check(run.status and run.says(reason, f"lab_{name}"), f"{name} refused ({reason})")
        run = self.train("train_flip.csv")
        self.check(run.status == 0 or run.says("same place|stored"), "flip: done or same place")
        run = self.train("train_shear.csv")
        self.check(run.status == 0 and run.says("warning", "lab_shear"), "shear: done, warned")
        self.check(self.train("train_negbg.csv").status == 0, "negbg: done")

    def case_47(self):
        run = self.run(EVALUATE, "--path", "ev.csv")
        self.check(run.says(r"1\.0000", "synthstrip"), "synthstrip: Dice 1")
        self.check(run.says(r"1\.0000", "ras"), "ras: Dice 1")
        self.check(run.says(r"0\.50? mm", "half"), "half refused by 0.5 mm")
        run = self.run(EVALUATE, "--path", "ev.csv", "--resample")
        self.check(run.says(r"\b[1-4]\d\.\d\d ", "half"), "half: PSNR with --resample")
        self.check(run.says(r"^ct .* [01]\.\d{4}"), "ct: SSIM given")
        self.check(run.says(r"(?<![\d.])-1\b", "ignore"), "ignore: -1 noted")

    def case_48(self):
        run = self.job()
        plain, spm = run.sr("plain.img") or run.sr("plain.hdr"), run.sr("spm99.img")
        factor = spm.array.max() / plain.array.max()
        # Only spm99.mat has an orientation, so the network is shown the same voxels mirrored.
        off = np.abs(np.sort(spm.array, None) - factor * np.sort(plain.array, None)).max()
        self.check(off <= 0.05 * spm.array.max(), f"spm99 proportional ({factor:.1f})")
        self.check(run.sr("mixed.hdr"), "mixed.IMG read")
        self.same(run, plain, "negative|positive|pixdim", "negpix.hdr")
        self.check(
            run.sr("gz.img.gz") or run.says("unpack|gunzip", "gz.img.gz"), "gz read or named"
        )
        self.refused(run, "missing|no such", "lonely.hdr")
        self.refused(run, "error", "envi.hdr")

    def case_49(self):
        run = self.job()
        self.refused(run, "error", "constant.nii.gz", "beyond_f32.nii.gz")
        for file in sorted(self.folder.glob("*.nii.gz")):
            result, source = run.sr(file.name), nibabel.load(file)
            if file.name not in ("constant.nii.gz", "beyond_f32.nii.gz"):
                size = source.shape * np.array(source.header.get_zooms())
                ok = result and np.isfinite(result.array).all() and result.is_box(size, None, 0.6)
                self.check(ok, f"{file.name}: finite, its box")
        source = nibabel.load(self.folder / "small_values.nii.gz")
        array = (np.asarray(source.dataobj, float) * 1e12).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(array, source.affine), self.folder / "large.nii.gz")
        self.same(
            self.job("large.nii.gz"),
            run.sr("small_values.nii.gz"),
            "$^",
            "large.nii.gz",
            factor=1e12,
        )
        run = self.job("33x37x7.nii.gz", more=("--overwrite",), patch="None")
        self.check(run.status == 0, "--patch None")

    def case_50(self):
        run, names = self.job(mm="0.5,0.5,0.8"), "_RLE _bigendian _jpeg_ls_lossless _padded".split()
        self.same(run, "MR_small.dcm", "$^", *(f"MR_small{name}.dcm" for name in names))
        self.check(run.sr("MR_small.dcm").is_box((20, 20, 0.8)), "MR_small: 20 x 20 x 0.8 mm")
        self.refused(run, "damaged|truncated", "MR_truncated.dcm")
        self.refused(run, "thick", "thickness_empty_jp2k.dcm")
        self.refused(run, "pixel|mosaic|damaged", "no_pixels_mosaic.dcm")
        for name in ("decimal_rescale.dcm", "no_meta.dcm"):
            self.check(run.sr(name) or run.says("error", name), f"{name} read or refused")
        self.check(run.sr("ct_image.dcm").array.min() < -500, "HU kept")

    def case_52(self):
        run, far = self.job(), r"\b1[78]\d(\.\d+)? mm|station"
        self.refused(run, far, "two_stations")
        words = "(warning|error).*(14|slice 7|IM0007|stray|lies beside)"
        self.check(run.says(words, "one_displaced"), "one_displaced: slice named")
        self.check(not run.says("tilted", "one_displaced"), "one_displaced: no tilt")

    def case_55(self):
        weights = "--weights", "supermask_fetal_small"
        run, masks = self.fused("--path", "CD", *weights)
        named = run.says("DICOM") and not run.says("holds no stacks")
        self.check(masks or named, "--path CD: stacks found or named")
        self.check(self.fused("--path", "p.csv", *weights, out="OUT2")[1], "p.csv done")
        self.check(self.job().says("warning.*series", "/CD"), "job_model: warned of other series")

    def case_56(self):
        self.refused(self.job(), "error", "vector.nrrd", "multivolume.nrrd")
        words = "--views", "stack.nii.gz", "--masks", "Segmentation.seg.nrrd"
        self.check(self.fused(*words)[1], "supermask: mask used")
        self.check(self.run(EVALUATE, "--path", "ev.csv").says(r"1\.0000"), "evaluate: Dice 1")
        run = self.train("train.csv")
        self.check(run.status and run.says("resample", "seg.nrrd"), "training: resampling advised")


def verdict(archive, verbose):
    """Unpacks a case and runs it: PASS or FAIL, and what was found."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="fully_trusted")
        place = Path(folder, archive.name.removesuffix(".tar.gz")).rename(Path(folder, "inputs"))
        case = Case(place, verbose)  # under a name that holds none of the words looked for
        try:
            getattr(case, f"case_{archive.name[:2]}")()
        except Exception as error:  # a result that is not there, or of another shape
            case.check(False, f"without {type(error).__name__}: {error}")
    found = "; ".join(case.failures or case.facts)
    return "FAIL" if case.failures else "PASS", found.replace("\n", " ").replace("|", "/")


def main():
    """Prints the table; 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", metavar="FOLDER", help="archives NN_name.tar.gz")
    parser.add_argument("--only", nargs="+", metavar="NN", help="numbers of the cases to run")
    parser.add_argument("--verbose", action="store_true", help="show commands and their output")
    args = parser.parse_args()
    archives = sorted(Path(args.cases).glob("[0-9][0-9]_*.tar.gz")) if args.cases else []
    if not archives:
        print("skipped: no cases; name the folder of their archives with --cases FOLDER")
    failed, written = 0, "| no | case | verdict | found |\n|---|---|---|---|" if archives else ""
    for archive in archives:
        number, name = archive.name.removesuffix(".tar.gz").split("_", 1)
        if not args.only or number in args.only:
            word, found = verdict(archive, args.verbose)
            print(f"{written}\n| {number} | {name} | {word} | {found[:240]} |".lstrip(), flush=True)
            failed, written = failed + (word == "FAIL"), ""
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

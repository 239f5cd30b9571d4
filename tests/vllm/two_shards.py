"""A program for two processes: weights sharded by FSDP2 reach an engine on each rank.

python two_shards.py RANK PORT OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from pipo.rollout.vllm import VllmEngine
from tests.toy import sampling
from tests.vllm.conftest import config, disturb, local, rows, tiny_policy

PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13)]
GREEDY = sampling(temperature=0.0, max_response_tokens=12)


def main(rank: int, port: int, out: Path) -> None:
    """Shard, wake, disturb, hand over; the whole model beside it says what to expect."""
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    whole, sharded = tiny_policy(), tiny_policy()
    mesh = init_device_mesh("cpu", (2,))
    for layer in sharded.model.base_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded.model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in sharded.parameters())
    engine = VllmEngine(sharded, config())
    engine.wake()
    found = [(engine.generate(PROMPTS, 1, GREEDY, 0), local(whole).generate(PROMPTS, 1, GREEDY, 0))]
    disturb(whole, seed=3)
    with torch.no_grad():
        for mine, other in zip(sharded.parameters(), whole.parameters(), strict=True):
            mine.copy_(torch.distributed.tensor.distribute_tensor(other, mesh, mine.placements))
    engine.sync_weights(sharded.named_parameters())
    found.append((engine.generate(PROMPTS, 1, GREEDY, 0), local(whole).generate(PROMPTS, 1, GREEDY, 0)))
    engine.close()
    assert dist.is_initialized()
    torch.save([[rows(one), rows(other)] for one, other in found], out / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

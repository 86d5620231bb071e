from __future__ import annotations

import warnings

import pytest
import torch

from faceresnet.train.machine import check_data_device, has_bf16, own_device, quiet


def test_photos_go_to_cpu_or_cuda():
    check_data_device("cpu")
    with pytest.raises(ValueError, match="must be cpu or cuda, got 'tpu'"):
        check_data_device("tpu")


def test_each_process_keeps_its_photos_on_its_own_gpu(monkeypatch):
    assert own_device("cpu") == "cpu"
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device("cuda") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("cuda") == "cuda:3"


def test_bfloat16_is_used_where_the_processor_has_it(monkeypatch):
    for capabilities, expected in (({"avx512_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c)
        assert has_bf16("cpu") == expected


def test_only_what_nobody_can_act_on_is_kept_quiet():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("Checkpoint directory /x exists and is not empty.", stacklevel=1)
            warnings.warn("the disk is full", stacklevel=1)
        warnings.warn("Checkpoint directory /x exists and is not empty.", stacklevel=1)
    assert [str(w.message)[:10] for w in caught] == ["the disk i", "Checkpoint"]

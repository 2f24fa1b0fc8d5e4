from tests.data.jpegs import write_folder
from tests.pretrained.torchvision_import import import_torchvision, torch


def test_crops_and_labels(tmp_path):
    """Labels are in the order of the classes' names; every image appears once in an epoch."""
    import_torchvision()
    from benchmarks.torch_loader import CropDataset, EndlessSampler

    dataset = CropDataset(write_folder(tmp_path, sides=(30, 60)) / "train", "pillow", 24)
    crop, label = dataset[40]
    assert (crop.dtype, tuple(crop.shape), label) == (torch.uint8, (3, 24, 24), 2)
    assert crop.float().mean(dim=(1, 2)).argmax() == 0  # red
    sampler = iter(EndlessSampler(45))
    epochs = [sorted(next(sampler) for _ in range(45)) for _ in range(2)]
    assert epochs == [list(range(45))] * 2

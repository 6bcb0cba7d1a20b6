"""Image and text vectors from the language model's hidden states. Shapes: B images, M texts, D LM width, E width."""

from torch import Tensor, nn
from torch.nn import functional

from training.objectives.config import ContrastConfig
from training.objectives.contrast import ContrastLoss, Pairs
from training.packed_batch import HeadReads


class ContrastHead(nn.Module):
    """Projections into one space, and the loss there."""

    def __init__(self, width: int, config: ContrastConfig) -> None:
        super().__init__()
        self.image = nn.Linear(width, config.width, bias=False)
        self.text = nn.Linear(width, config.width, bias=False)
        self.loss = ContrastLoss(config.loss)

    def vectors(self, images_BD: Tensor, texts_MD: Tensor) -> tuple[Tensor, Tensor]:
        """([B, E], [M, E]) of length 1."""
        image_BE = functional.normalize(self.image(images_BD.float()).float(), dim=1)
        text_ME = functional.normalize(self.text(texts_MD.float()).float(), dim=1)
        return image_BE, text_ME

    def weighted_loss(self, images_BD: Tensor, texts_MD: Tensor, reads: HeadReads) -> Tensor:
        """This rank's part of the sum over texts. `values_MU` holds the text's number. Every rank has to call it."""
        image_BE, text_ME = self.vectors(images_BD, texts_MD)
        pairs = Pairs(image_of_text_X=reads.image_M, text_id_X=reads.values_MU[:, 0].long(), weight_X=reads.weight_M)
        loss: Tensor = self.loss(image_BE, text_ME, pairs)
        return loss

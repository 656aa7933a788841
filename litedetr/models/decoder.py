"""The decoder: queries read the memory and refine their boxes layer by layer (Deformable DETR, DINO)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litedetr.boxes import inverse_sigmoid
from litedetr.models.attention import MultiScaleAttention
from litedetr.models.detector_config import DetectorConfig
from litedetr.models.feedforward import FeedForward
from litedetr.models.heads import MLP, DetectionHead
from litedetr.models.position import box_embedding
from litedetr.models.recompute import run
from litedetr.models.training_queries import JointQueries, TrainingQueries
from litedetr.structures import DetectorOutput, FeaturePyramid, Predictions, Queries


class SelfAttention(nn.Module):
    """Multi-head attention among queries (Vaswani et al., 2017), with dropout of attention weights in training."""

    def __init__(self, channels: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key = nn.Linear(channels, 2 * channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        joint = torch.empty(3 * channels, channels)
        nn.init.xavier_uniform_(joint)  # as one (3 C, C) matrix, like torch's own attention
        with torch.no_grad():
            self.query_key.weight.copy_(joint[: 2 * channels])
            self.value.weight.copy_(joint[2 * channels :])
        for linear in (self.query_key, self.value, self.output):
            nn.init.zeros_(linear.bias)

    def forward(self, content: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q k^T / sqrt(D)) v, with position added to queries and keys, not to values.

        content: (B, Q, C).
        position: (B, Q, C).
        mask: (B or 1, Q, Q) bool, True where query i may attend to j; None: everywhere, which PyTorch's fastest
        attention needs.
        Returns (B, Q, C).
        """
        query, key = self.query_key(content + position).chunk(2, dim=-1)
        heads = [x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, self.value(content))]
        mask = mask if mask is None else mask.unsqueeze(1)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(*heads, attn_mask=mask, dropout_p=dropout)
        return self.output(attended.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory, feed-forward (post-norm)."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        channels, attention, dropout = config.neck.channels, config.attention, config.decoder.dropout
        self.self_attention = SelfAttention(channels, attention.num_heads, dropout)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = MultiScaleAttention(attention.decoder, channels, config.num_memory_levels, attention)
        self.cross_norm = nn.LayerNorm(channels)
        self.feedforward = FeedForward(channels, config.decoder.feedforward, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, content: Tensor, position: Tensor, reference: Tensor, memory: FeaturePyramid, mask: Tensor | None
    ) -> Tensor:
        """Queries attend to each other, then to the memory at their boxes.

        content: (B, Q, C) what the queries know so far.
        position: (B, Q, C) embedding of where they look, added to the content before each attention.
        reference: (B, Q, L, 4) their boxes, cxcywh relative to each level with its padding.
        memory: the encoder's output.
        mask: (B or 1, Q, Q) bool, True where query i may attend to j; None: everywhere.
        Returns the new content, (B, Q, C).
        """
        among_queries = self.self_attention(content, position, mask)
        content = self.self_norm(content + self.dropout(among_queries))
        of_memory = self.cross_attention(content + position, reference, memory)
        content = self.cross_norm(content + self.dropout(of_memory))
        return self.feedforward(content)


class Decoder(nn.Module):
    """Layers that refine the queries' boxes one after the other (Deformable DETR, appendix A.4; DINO, section 3.5)."""

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__()
        channels, options = config.neck.channels, config.decoder
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(options.num_layers))
        if options.query_position == "reference":
            self.position = MLP(2 * channels, channels, channels)
        if options.heads == "shared":
            self.norm = nn.LayerNorm(channels)
            self.head = DetectionHead(channels, num_classes)
        else:
            self.heads = nn.ModuleList(DetectionHead(channels, num_classes) for _ in range(options.num_layers))
        self.options = options
        self.channels = channels
        self.padding = config.padding

    def forward(
        self, queries: Queries, memory: FeaturePyramid, training: tuple[TrainingQueries, ...] = ()
    ) -> DetectorOutput:
        """Decode the detector's queries and those of training together.

        queries: the detector's own, Q of them.
        memory: the encoder's output.
        training: groups of queries that exist only in training, denoising or one-to-many ones; the detector's own never
        see them.
        Returns the predictions of every layer. Each layer refines its reference boxes, and the next layer gets them
        detached. If the decoder looks forward twice (DINO, section 3.5), the loss of layer n + 1 also reaches the box
        that layer n refined.
        """
        joint = JointQueries(queries, training)
        decoded, mask = joint.joined(), joint.attention_mask()
        ratios = memory.valid_ratios.repeat(1, 1, 2).unsqueeze(1)  # (B, 1, L, 4)
        content, reference = decoded.content, decoded.reference_logit.sigmoid()
        predictions = []
        for number, layer in enumerate(self.layers):
            per_level = reference.detach().unsqueeze(2) * ratios  # (B, Q, L, 4)
            position = self._position(decoded, reference, per_level)
            recompute = self.options.activation_checkpointing
            content = run(layer, content, position, per_level, memory, mask, recompute=recompute)
            predictions.append(self._predict(number, content, reference))
            reference = self._head(number).refine(content, inverse_sigmoid(reference.detach()))
            if not self.options.look_forward_twice:
                reference = reference.detach()
        return joint.split(predictions)

    def _position(self, queries: Queries, reference: Tensor, per_level: Tensor) -> Tensor:
        """(B, Q, C) the proposals' position, or that of the reference boxes."""
        if queries.position is not None:
            return queries.position
        # the published code embeds boxes relative to the padded image, so that a position depends on the batch
        seen = per_level[:, :, 0] if self.padding == "published" else reference.detach()
        return self.position(box_embedding(seen, self.channels).to(queries.content.dtype))

    def _predict(self, number: int, content: Tensor, reference: Tensor) -> Predictions:
        """The predictions of layer `number` from its output and its reference boxes."""
        output = self.norm(content) if self.options.heads == "shared" else content
        head = self._head(number)
        return Predictions(head.classes(output), head.refine(output, inverse_sigmoid(reference)))

    def _head(self, number: int) -> DetectionHead:
        return self.head if self.options.heads == "shared" else self.heads[number]

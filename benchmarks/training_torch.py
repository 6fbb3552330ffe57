# SPDX-License-Identifier: MIT
"""Child of `training.py`: the same networks and cycle written plainly in torch."""

from contextlib import nullcontext

import torch
from torch import nn
from training_timing import arrays, emit, first_to_end, measure, parser

BLOCKS = 6
LAMBREC, LAMBADV, LAMBGP = 1.0, 0.001, 100.0


def conv(channels, filters, size, stride=1):
    return nn.Conv3d(channels, filters, size, stride, size // 2, bias=False, padding_mode="reflect")


def normalised(channels, filters, size, stride=1):
    norm = nn.InstanceNorm3d(filters, affine=True)
    return nn.Sequential(conv(channels, filters, size, stride), norm, nn.ReLU())


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        last = conv(channels, channels, 3), nn.InstanceNorm3d(channels, affine=True)
        self.body = nn.Sequential(normalised(channels, channels, 3), *last)

    def forward(self, x):
        return x + self.body(x)


class Generator(nn.Module):
    def __init__(self, k=16):
        super().__init__()
        self.body = nn.Sequential(
            normalised(1, k, 7),
            normalised(k, 2 * k, 3, 2),
            normalised(2 * k, 4 * k, 3, 2),
            *(Block(4 * k) for _ in range(BLOCKS)),
            nn.Upsample(scale_factor=2),
            normalised(4 * k, 2 * k, 3),
            nn.Upsample(scale_factor=2),
            normalised(2 * k, k, 3),
            conv(k, 2, 7),
        )

    def forward(self, x):
        y = self.body(x).float()
        return torch.cat([x - y[:, :1], torch.sigmoid(y[:, 1:])], 1)


def build_discriminator(patch, k=32):
    layers, channels = [], 2
    for level in range(patch.bit_length() - 2):
        layers += [nn.Conv3d(channels, k * 2**level, 4, 2, 1), nn.LeakyReLU(0.01)]
        channels = k * 2**level
    return nn.Sequential(*layers, nn.Conv3d(channels, 1, 2, bias=False), nn.Flatten())


def charbonnier(target, output):
    return torch.sqrt((target - output) ** 2 + 1e-6).mean()


def gradient_penalty(critic, real, fake):
    epsilon = torch.rand(len(real), 1, 1, 1, 1, device=real.device)
    between = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
    score = critic(between).float().sum()
    (gradient,) = torch.autograd.grad(score, between, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


class Training:
    """The two networks and their updates, on arrays with the channels first."""

    def __init__(self, args):
        device = torch.device("cuda" if args.device == "gpu" else "cpu")
        lr, target = arrays(args.batch, args.patch)
        self.lr = torch.from_numpy(lr[:, None]).to(device)
        self.target = torch.from_numpy(target).movedim(-1, 1).contiguous().to(device)
        self.generator = Generator().to(device)
        self.critic = build_discriminator(args.patch).to(device)
        self.adam = {
            model: torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.5, 0.999))
            for model in (self.generator, self.critic)
        }
        self.precision = nullcontext()
        if args.precision == "mixed_bfloat16":
            self.precision = torch.autocast(device.type, torch.bfloat16)

    def update_discriminator(self):
        with self.precision:
            with torch.no_grad():
                fake = self.generator(self.lr)
            penalty = gradient_penalty(self.critic, self.target, fake)
            loss = self.critic(fake).float().mean() - self.critic(self.target).float().mean()
            loss = loss + LAMBGP * penalty
        return self.apply(self.critic, loss)

    def update_generator(self):
        self.critic.requires_grad_(False)
        with self.precision:
            output = self.generator(self.lr)
            loss = LAMBREC * charbonnier(self.target, output)
            loss = loss - LAMBADV * self.critic(output).float().mean()
        result = self.apply(self.generator, loss)
        self.critic.requires_grad_(True)
        return result

    def apply(self, model, loss):
        self.adam[model].zero_grad()
        loss.backward()
        self.adam[model].step()
        return loss.detach()


def main():
    args = parser(__doc__).parse_args()
    first_to_end()
    training = Training(args)

    def wait(loss):
        if loss.is_cuda:  # the loss is there before the weights are updated
            torch.cuda.synchronize()
        return [loss.item()]

    result = measure(training.update_discriminator, training.update_generator, wait, args)
    if args.device == "gpu":
        result["device_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    emit(result)


if __name__ == "__main__":
    main()

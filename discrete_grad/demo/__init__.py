# SPDX-License-Identifier: Apache-2.0
"""A discrete autoencoder learns handwritten digits: ``python -m discrete_grad.demo --help``.

Needs the extra: ``pip install 'discrete-grad[demo]'``.
"""

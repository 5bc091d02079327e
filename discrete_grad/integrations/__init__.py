# SPDX-License-Identifier: Apache-2.0
"""The library's modules inside models of other projects; each module here needs that project.

- ``discrete_grad.integrations.huggingface``: Hugging Face transformers,
  ``pip install "discrete-grad[transformers]"``.

Importing this package imports none of them.
"""

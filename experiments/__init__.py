# SPDX-License-Identifier: Apache-2.0
"""The experiments of the SIMPLE, I-MLE and AIMLE papers, on the library's public functions.

``python -m experiments`` lists them, ``python -m experiments NAME --help`` says what one takes.
"""

# SPDX-License-Identifier: Apache-2.0
"""Gradient estimators for learning through the choice of k items, one file each."""

//! Chains against a model: thousands of random sequences of backups of a small file system.

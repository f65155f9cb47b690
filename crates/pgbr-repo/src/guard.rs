//! The right to change what others rely on, looked at before each change.
//!
//! A process may stand still for minutes (its host was suspended, an answer was late) and find that another has taken over its lease meanwhile. What
//! it would then overwrite or take away may be the other's: a guard keeps it from that. Creates need none, for they never overwrite.

use std::fmt;

use futures::future::BoxFuture;

use crate::error::Result;

/// Says whether this process may still change what it holds the lease of.
pub trait Guard: fmt::Debug + Send + Sync {
    /// Sees that nobody else can have taken over, nor will before a request that is sent now has had plenty of time to arrive.
    ///
    /// # Errors
    /// [`Error::LeaseLost`](crate::Error::LeaseLost) where another has, or may have; as the store failed.
    fn check(&self) -> BoxFuture<'_, Result<()>>;
}

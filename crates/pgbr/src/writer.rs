//! The right to write to a stanza, kept from one command to the next.

use pgbr_repo::Lease;

use crate::held::Held;
use crate::host::Host;
use crate::place::StanzaPlace;

/// An open stanza with the lease of its writers: what a backup leaves to the expire behind it, which then need not open the repository and wait
/// for its turn again. In a store elsewhere that is ten requests.
///
/// Give it to [`expire_as`](crate::expire_as) or [`Writer::release`] it. Dropped without that, it keeps other writers away for a minute.
#[must_use = "until it is released, nobody else can write to the stanza"]
pub struct Writer {
    pub(crate) place: StanzaPlace,
    pub(crate) lease: Held<Lease>,
}

impl Writer {
    /// Lets others write.
    pub async fn release(self, host: &Host) {
        self.lease.release(host).await;
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("place", &self.place).finish_non_exhaustive()
    }
}

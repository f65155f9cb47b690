//! Since when pins of other hosts give no sign of life: kept in a file of this host, because an expire runs for seconds.

use std::io::{Read, Write};
use std::path::Path;

use pgbr_repo::{PinState, Watch};

use crate::host::{Host, boot_id};

/// The largest file of notes that is read.
const MAX: u64 = 4 << 20;

/// The notes of earlier runs since the host was started; none where they cannot be read: then pins are watched from now on.
pub(super) fn load(host: &Host, path: Option<&Path>) -> Watch {
    let read = |path: &Path| -> std::io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    let boot = boot_id();
    match path.filter(|_| !boot.is_empty()).map(read) {
        Some(Ok(text)) => Watch::restore(&text, &boot),
        Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
            host.warn(format!("notes on pins cannot be read, and are begun anew: {error}"));
            Watch::new()
        }
        _ => Watch::new(),
    }
}

/// Keeps the notes on the pins that there are. Without them a dead pin of another host stays longer; no harm is done.
pub(super) fn save(host: &Host, path: Option<&Path>, watch: &Watch, pins: &[PinState]) {
    let boot = boot_id();
    let Some(path) = path.filter(|_| !boot.is_empty()) else { return };
    if pins.is_empty() && !path.exists() {
        return;
    }
    let mut watch = watch.clone();
    watch.retain(|name| pins.iter().any(|pin| name == format!("pin {}", pin.id)));
    let write = || -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let temporary = path.with_extension("tmp");
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(watch.save(&boot).as_bytes())?;
        std::fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        host.warn(format!("notes on pins cannot be written to '{}': {error}", path.display()));
    }
}

//! manifest: what a backup holds, in the form of pgBackRest's own command.

use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgbr::{
    BackupLabel, BackupManifest, BlockAmount, BlocksOf, FileBlocks, FilesAsked, Host, ManifestFile,
    ManifestRequest, manifest,
};

use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome, print};
use crate::settings::Settings;
use crate::size::format_size;

/// What stands for the newest backup, and for the one that is shown.
const LATEST: &str = "latest";

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let request = ManifestRequest {
        repo: request::repo_of(settings, settings.repo_key())?,
        stanza: request::stanza(settings)?,
        set: settings.get_str("set").filter(|set| *set != LATEST).map(label).transpose()?,
        files: asked(settings)?,
    };
    let found = manifest(host, request).await.map_err(|e| context.failure(&e))?;
    match settings.get_str("output") {
        Some("json") => {
            let json = serde_json::to_string(&found);
            print(&json.map_err(|e| CliError::new(ErrorCode::Assert, e.to_string()))?)?;
        }
        _ => print(&text(&found, &host.zone))?,
    }
    Ok(0)
}

fn label(text: &str) -> Result<BackupLabel, CliError> {
    text.parse().map_err(|e: pgbr::ManifestError| CliError::new(ErrorCode::OptionInvalidValue, e.to_string()))
}

/// As in pgBackRest, a file that is named is shown whatever it refers to.
fn asked(settings: &Settings) -> Result<FilesAsked, CliError> {
    Ok(match (settings.get_str("filter"), settings.get_str("reference")) {
        (Some(name), _) => FilesAsked::One(name.to_owned()),
        (None, Some(LATEST)) => FilesAsked::Own,
        (None, Some(other)) => FilesAsked::Of(label(other)?),
        (None, None) => FilesAsked::All,
    })
}

fn text(manifest: &BackupManifest, zone: &TimeZone) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    write(&mut text, manifest, zone).ok();
    text
}

fn write(text: &mut String, manifest: &BackupManifest, zone: &TimeZone) -> std::fmt::Result {
    let references: Vec<String> = manifest.references.iter().map(ToString::to_string).collect();
    writeln!(text, "label: {}\nreference: {}", manifest.label, references.join(", "))?;
    writeln!(text, "type: {}", manifest.kind)?;
    let time = |seconds: i64| {
        Timestamp::from_second(seconds)
            .unwrap_or_default()
            .to_zoned(zone.clone())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string()
    };
    let (start, stop) = (manifest.time.start, manifest.time.stop);
    let lasted = stop.saturating_sub(start);
    writeln!(
        text,
        "time: start: {}, stop: {}, duration: {}:{:02}:{:02}",
        time(start),
        time(stop),
        lasted / 3600,
        lasted % 3600 / 60,
        lasted % 60
    )?;
    writeln!(text, "bundle: {}\nblock: {}\n\nfile list:", manifest.bundle.bundle, manifest.block.block)?;
    for (nth, file) in manifest.files.iter().enumerate() {
        if nth > 0 {
            text.push('\n');
        }
        write_file(text, manifest, file)?;
    }
    Ok(())
}

fn write_file(text: &mut String, manifest: &BackupManifest, file: &ManifestFile) -> std::fmt::Result {
    writeln!(text, "  - {}", file.name)?;
    if let Some(reference) = file.reference {
        writeln!(text, "      reference: {reference}")?;
    }
    let stored = file.repo.map(|stored| format!(", repo {}", format_size(stored.size))).unwrap_or_default();
    writeln!(text, "      size: {}{stored}\n      checksum: {}", format_size(file.size), file.checksum)?;
    if let Some(bundle) = file.bundle {
        writeln!(text, "      bundle: {}", bundle.id)?;
    }
    let Some(block) = &file.block else { return Ok(()) };
    let map = block.map.size.map(|size| format!(", map size {}", format_size(size))).unwrap_or_default();
    let (size, checksum) = (format_size(block.size), format_size(block.checksum.size));
    writeln!(text, "      block: size {size}{map}, checksum size {checksum}")?;
    match &block.map.delta {
        Some(delta) => write_delta(text, manifest, block, delta),
        None => Ok(()),
    }
}

fn write_delta(
    text: &mut String,
    manifest: &BackupManifest,
    block: &FileBlocks,
    delta: &[BlocksOf],
) -> std::fmt::Result {
    writeln!(text, "      block delta:")?;
    let amount = |what: &str, amount: Option<BlockAmount>| match amount {
        Some(BlockAmount { total, size, .. }) => format!("{what}: {total}/{}, ", format_size(size)),
        None => String::new(),
    };
    let blocks = |count: u64| format!("block: {count}/{}", format_size(count.saturating_mul(block.size)));
    for of in delta {
        let label = || manifest.references.get(of.reference).map(ToString::to_string).unwrap_or_default();
        let object = of.object.clone().unwrap_or_else(label);
        let (read, super_block) = (amount("read", of.read), amount("superBlock", of.super_block));
        writeln!(text, "        reference: {object}, {read}{super_block}{}", blocks(of.block.total))?;
    }
    let sum = |of: fn(&BlocksOf) -> Option<BlockAmount>| {
        delta.iter().map(of).try_fold(BlockAmount::default(), |mut sum, one| {
            let one = one?;
            sum.total += one.total;
            sum.size = sum.size.saturating_add(one.size);
            Some(sum)
        })
    };
    let (read, super_block) =
        (amount("read", sum(|of| of.read)), amount("superBlock", sum(|of| of.super_block)));
    let all = delta.iter().map(|of| of.block.total).fold(0, u64::saturating_add);
    writeln!(text, "        total {read}{super_block}{}", blocks(all))
}

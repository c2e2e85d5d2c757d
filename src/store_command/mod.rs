//! `atoll store`: looks into a store, checks it, and carries its objects elsewhere, while no node has it open.

pub mod portable;

use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use atoll_store::{ByteSize, Config, Depth, Key, Object, OpenError, Store};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{StoreAction, StorePlace};
use crate::config::ConfigError;
use crate::out::{complain, say};

use portable::{Piece, PortableError};

/// Why `atoll store` did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreCommandError {
    /// The configuration file has a mistake.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No directory is configured: everything is in RAM.
    #[error("this configuration keeps no store on disk")]
    InRam,
    /// There is no store here.
    #[error("{0:?} holds no store")]
    Absent(PathBuf),
    /// The key is not 40 hexadecimal digits.
    #[error("{0:?} is no key: a key is 40 hexadecimal digits")]
    Key(String),
    /// A node has it open.
    #[error("{0}: stop the node first")]
    Locked(OpenError),
    /// It cannot be opened.
    #[error(transparent)]
    Open(OpenError),
    /// A file could not be read or written.
    #[error("{0:?}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// An exported file is not whole.
    #[error("{0:?}: {1}")]
    Portable(PathBuf, #[source] PortableError),
    /// There is no such object.
    #[error("there is no object under this key")]
    NotFound,
    /// An object could not be read or stored.
    #[error("the object under {0:?}: {1}")]
    Object(Key, String),
    /// Records are damaged.
    #[error("{0} of {1} records are damaged; the store treats them as misses")]
    Damaged(u64, u64),
}

impl StoreCommandError {
    /// Whether the command was asked wrongly, which is exit code 2.
    #[must_use]
    pub fn asked_wrongly(&self) -> bool {
        matches!(self, Self::Config(_) | Self::InRam | Self::Key(_))
    }
}

/// Does it.
pub async fn run(action: &StoreAction) -> Result<(), StoreCommandError> {
    match action {
        StoreAction::Stat(place) => stat(place).await,
        StoreAction::Verify(place) => verify(place).await,
        StoreAction::Get { place, key, output } => get(place, key, output.as_deref()).await,
        StoreAction::Export { place, file } => export(place, file).await,
        StoreAction::Import { place, file } => import(place, file).await,
    }
}

/// Opens a store that is there; only what takes objects in may make one.
async fn open(place: &StorePlace, make: bool) -> Result<Store, StoreCommandError> {
    let config = match (&place.directory, &place.config) {
        (Some(directory), _) => {
            // Nothing is dropped for room, however the store was configured.
            let capacity = if make { Config::default().capacity } else { ByteSize::gib(1 << 20) };
            Config { directory: Some(directory.clone()), capacity, ..Config::default() }
        }
        (None, Some(file)) => crate::config::Config::load(file)?.store,
        (None, None) => return Err(StoreCommandError::InRam),
    };
    let Some(directory) = &config.directory else { return Err(StoreCommandError::InRam) };
    if !make && !directory.join("format").exists() {
        return Err(StoreCommandError::Absent(directory.clone()));
    }
    Store::open(config).await.map_err(|error| match error {
        OpenError::Locked { .. } => StoreCommandError::Locked(error),
        _ => StoreCommandError::Open(error),
    })
}

async fn stat(place: &StorePlace) -> Result<(), StoreCommandError> {
    let store = open(place, false).await?;
    let stats = store.stats();
    say(format_args!("objects   {}", stats.objects));
    say(format_args!("disk      {} bytes", stats.disk_bytes));
    say(format_args!("index     {} bytes of RAM", stats.index_bytes));
    say(format_args!("purges    {} kept, the newest is number {}", stats.purges, store.purge_number().0));
    store.close().await;
    Ok(())
}

async fn verify(place: &StorePlace) -> Result<(), StoreCommandError> {
    let store = open(place, false).await?;
    let mut scan = store.scan(Depth::Bodies);
    let bar = bar(scan.total(), "verifying");
    let (mut records, mut live, mut damaged) = (0, 0, 0);
    while let Some(batch) = scan.next().await {
        bar.set_position(scan.done());
        records += batch.records;
        live += batch.live.len() as u64;
        damaged += batch.damaged.len() as u64;
        for damage in &batch.damaged {
            let offset = damage.offset.map_or_else(String::new, |offset| format!(" at byte {offset}"));
            bar.suspend(|| complain(format_args!("{}{offset}: {}", damage.file.display(), damage.reason)));
        }
    }
    bar.finish_and_clear();
    store.close().await;
    if damaged > 0 {
        return Err(StoreCommandError::Damaged(damaged, records));
    }
    say(format_args!("OK {records} records, {live} objects"));
    Ok(())
}

async fn get(place: &StorePlace, key: &str, output: Option<&Path>) -> Result<(), StoreCommandError> {
    let key = parse_key(key).ok_or_else(|| StoreCommandError::Key(key.to_owned()))?;
    let store = open(place, false).await?;
    let object = store.get(&key).await.ok_or(StoreCommandError::NotFound)?;
    let name = output.unwrap_or_else(|| Path::new("standard output"));
    let failed = |error| StoreCommandError::File(name.to_owned(), error);
    let mut out: Box<dyn Write> = match output {
        Some(path) => Box::new(BufWriter::new(File::create_new(path).map_err(failed)?)),
        None => Box::new(std::io::stdout().lock()),
    };
    copy(&object, &mut out, name).await?;
    out.flush().map_err(failed)?;
    drop(out);
    store.close().await;
    Ok(())
}

async fn export(place: &StorePlace, file: &Path) -> Result<(), StoreCommandError> {
    let store = open(place, false).await?;
    let failed = |error| StoreCommandError::File(file.to_owned(), error);
    let mut out = BufWriter::new(File::create_new(file).map_err(failed)?);
    portable::begin(&mut out).map_err(failed)?;
    let mut scan = store.scan(Depth::Heads);
    let bar = bar(scan.total(), "exporting");
    let (mut objects, mut left) = (0, 0);
    while let Some(batch) = scan.next().await {
        bar.set_position(scan.done());
        for key in batch.live {
            // Purged, expired, or not what was written; or marked by a soft purge, which the file cannot say.
            let Some(object) = store.get(&key).await.filter(|object| !object.soft_purged()) else {
                left += 1;
                continue;
            };
            portable::write_head(&mut out, object.head()).map_err(failed)?;
            let sum = copy(&object, &mut out, file).await?;
            out.write_all(&sum.to_le_bytes()).map_err(failed)?;
            objects += 1;
        }
    }
    portable::end(&mut out, objects).map_err(failed)?;
    out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    bar.finish_and_clear();
    store.close().await;
    say(format_args!("OK {objects} objects; {left} that are purged, expired or damaged stay behind"));
    Ok(())
}

async fn import(place: &StorePlace, file: &Path) -> Result<(), StoreCommandError> {
    let failed = |error| StoreCommandError::File(file.to_owned(), error);
    let wrong = |error| StoreCommandError::Portable(file.to_owned(), error);
    let input = File::open(file).map_err(failed)?;
    let bar = bar(input.metadata().map_err(failed)?.len(), "importing");
    let mut input = bar.wrap_read(BufReader::new(input));
    portable::check_begin(&mut input).map_err(wrong)?;
    let store = open(place, true).await?;
    let mut objects = 0;
    while let Piece::Object(head) = portable::read_head(&mut input, objects).map_err(wrong)? {
        let key = head.key;
        let refused = |error: atoll_store::StoreError| StoreCommandError::Object(key, error.to_string());
        let (mut left, born) = (head.length.unwrap_or_default(), store.purge_number());
        let mut writer = store.writer(atoll_store::Head { born, ..head }).map_err(refused)?;
        let mut hasher = crc32fast::Hasher::new();
        while left > 0 {
            let mut chunk = vec![0; usize::try_from(left.min(CHUNK)).unwrap_or_default()];
            input.read_exact(&mut chunk).map_err(|error| wrong(portable::cut(error, objects)))?;
            hasher.update(&chunk);
            left -= chunk.len() as u64;
            writer.append(chunk.into()).await.map_err(refused)?;
        }
        if portable::read_sum(&mut input, objects).map_err(wrong)? != hasher.finalize() {
            return Err(wrong(PortableError::Damaged { objects, reason: "a body is not what was written" }));
        }
        writer.commit(None).await.map_err(refused)?;
        objects += 1;
    }
    bar.finish_and_clear();
    store.close().await;
    say(format_args!("OK {objects} objects"));
    Ok(())
}

/// Writes a body; its checksum.
async fn copy(object: &Object, out: &mut impl Write, name: &Path) -> Result<u32, StoreCommandError> {
    let (mut at, mut hasher) = (0, crc32fast::Hasher::new());
    while at < object.len() {
        let part = object.read(at, 1 << 20).await;
        let part = part.map_err(|error| StoreCommandError::Object(object.head().key, error.to_string()))?;
        hasher.update(&part);
        out.write_all(&part).map_err(|error| StoreCommandError::File(name.to_owned(), error))?;
        at += part.len() as u64;
    }
    Ok(hasher.finalize())
}

fn parse_key(text: &str) -> Option<Key> {
    let mut bytes = [0; Key::LENGTH];
    if text.len() != 2 * bytes.len() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(Key::from_bytes(bytes))
}

/// A bar on standard error; nothing where that is no terminal.
fn bar(total: u64, action: &'static str) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(action)
}

/// Bytes that an import reads at a time.
const CHUNK: u64 = 256 << 10;

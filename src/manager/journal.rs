//! The manager's log of requests: one JSON object a line, to a file that turns when it is large or to standard output, and the last
//! lines in memory for `/_log`.
//!
//! Whoever reads standard output may stop to: lines for it wait in a bounded queue, and what finds no room is lost and counted.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::broadcast;

use crate::front::record::Record;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Journal {
    inner: Mutex<Inner>,
    fresh: broadcast::Sender<Line>,
}

/// Where lines go besides memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Memory,
    Output,
    File(PathBuf),
}

#[derive(Debug)]
enum Sink {
    Memory,
    Output(Output),
    File(Turning),
}

#[derive(Debug)]
struct Inner {
    sink: Sink,
    last: VecDeque<Line>,
    bytes: usize,
    failed: u64,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// With its newline.
    pub(crate) text: Bytes,
}

/// What a line is filtered by.
#[derive(Deserialize)]
struct Told<'l> {
    #[serde(borrow)]
    data: About<'l>,
    #[serde(borrow)]
    peer: Cow<'l, str>,
}

#[derive(Deserialize)]
struct About<'l> {
    #[serde(borrow)]
    key: Cow<'l, str>,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// What the key begins with.
    pub(crate) key: Option<String>,
    /// The peer, by its URL or its host and port.
    pub(crate) peer: Option<String>,
}

impl Journal {
    /// A log that goes there. What a file holds already is read for the last lines.
    pub(crate) fn open(target: &Target) -> io::Result<Self> {
        let (sink, lines) = match target {
            Target::Memory => (Sink::Memory, Vec::new()),
            Target::Output => (Sink::Output(Output::start()?), Vec::new()),
            Target::File(path) => {
                let lines = tail(path)?;
                (Sink::File(Turning::open(path, TURN_AT)?), lines)
            }
        };
        let mut inner = Inner { sink, last: VecDeque::new(), bytes: 0, failed: 0 };
        lines.into_iter().for_each(|line| inner.remember(line));
        Ok(Self { inner: Mutex::new(inner), fresh: broadcast::Sender::new(FOLLOWED) })
    }

    /// Writes records. A file that cannot be written loses them, not the manager; the loss is counted.
    pub(crate) fn append(&self, records: &[Record<'_>]) {
        let mut records = records.iter().peekable();
        while records.peek().is_some() {
            let mut text = Vec::with_capacity(PIECE + PIECE / 8);
            let mut ends = Vec::new();
            while text.len() < PIECE
                && let Some(record) = records.next()
            {
                // Our own types, into memory: neither fails.
                let _ = serde_json::to_writer(&mut text, record);
                text.push(b'\n');
                ends.push(text.len());
            }
            self.append_lines(&text.into(), &ends);
        }
    }

    /// Writes some lines, which end there.
    fn append_lines(&self, text: &Bytes, ends: &[usize]) {
        let mut inner = self.lock();
        let written = match &mut inner.sink {
            Sink::Memory => Ok(()),
            Sink::Output(output) => output.write(text),
            Sink::File(file) => file.write(text),
        };
        if let Err(error) = written {
            if inner.failed == 0 {
                tracing::warn!(%error, "the log of requests cannot be written; lines are lost");
            }
            inner.failed += u64::try_from(ends.len()).unwrap_or(u64::MAX);
        }
        let mut from = 0;
        for end in ends {
            let line = Line { text: text.slice(from..*end) };
            from = *end;
            if self.fresh.receiver_count() > 0 {
                // The last follower may just have gone: then it is nobody's business.
                let _ = self.fresh.send(line.clone());
            }
            inner.remember(line);
        }
    }

    /// The last lines that fit the filter, oldest first, and those to come. A follower that lags by more than [`FOLLOWED`] lines
    /// loses the oldest.
    pub(crate) fn follow(&self, filter: &Filter, most: usize) -> (Vec<Bytes>, broadcast::Receiver<Line>) {
        let inner = self.lock();
        let wanted = inner.last.iter().rev().filter(|line| filter.wants(line)).take(most);
        let mut lines: Vec<Bytes> = wanted.map(|line| line.text.clone()).collect();
        lines.reverse();
        (lines, self.fresh.subscribe())
    }

    /// Opens the file anew, after it was moved away.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let mut inner = self.lock();
        if let Sink::File(file) = &inner.sink {
            inner.sink = Sink::File(Turning::open(&file.path, file.turn_at)?);
        }
        Ok(())
    }

    /// Waits a moment for what is still to be written. Not for a thread that must not wait.
    pub(crate) fn finish(&self) {
        let waiting = match &self.lock().sink {
            Sink::Output(output) => Arc::clone(&output.waiting),
            Sink::Memory | Sink::File(_) => return,
        };
        let deadline = Instant::now() + LAST;
        while waiting.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remember(&mut self, line: Line) {
        self.bytes += line.text.len();
        self.last.push_back(line);
        while self.last.len() > LINES || self.bytes > LINES_BYTES {
            let Some(gone) = self.last.pop_front() else { return };
            self.bytes -= gone.text.len();
        }
    }
}

impl Filter {
    /// Whether a line fits.
    pub(crate) fn wants(&self, line: &Line) -> bool {
        if *self == Self::default() {
            return true;
        }
        let Ok(Told { data, peer }) = serde_json::from_slice::<Told<'_>>(&line.text) else { return false };
        let bare = |peer: &str| peer.split_once("://").map_or(peer, |(_, rest)| rest).trim_end_matches('/').to_owned();
        self.key.as_ref().is_none_or(|key| data.key.starts_with(key.as_str()))
            && self.peer.as_ref().is_none_or(|wanted| bare(wanted) == bare(&peer))
    }
}

/// Standard output, written by a thread of its own.
#[derive(Debug)]
struct Output {
    pieces: SyncSender<Bytes>,
    /// Bytes of them.
    waiting: Arc<AtomicUsize>,
}

impl Output {
    fn start() -> io::Result<Self> {
        let (pieces, queue) = sync_channel::<Bytes>(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        thread::Builder::new().name("atoll-log".to_owned()).spawn(move || {
            for piece in queue {
                let mut output = io::stdout().lock();
                // A reader that has gone away loses its lines.
                let _ = output.write_all(&piece).and_then(|()| output.flush());
                left.fetch_sub(piece.len(), Ordering::Release);
            }
        })?;
        Ok(Self { pieces, waiting })
    }

    fn write(&self, piece: &Bytes) -> io::Result<()> {
        let before = self.waiting.fetch_add(piece.len(), Ordering::AcqRel);
        let taken = before <= QUEUE_BYTES && self.pieces.try_send(piece.clone()).is_ok();
        if !taken {
            self.waiting.fetch_sub(piece.len(), Ordering::AcqRel);
            return Err(io::Error::other("nobody reads standard output fast enough"));
        }
        Ok(())
    }
}

/// A file that is moved to NAME.1 (and that to NAME.2, up to [`KEPT`]) when it is large.
#[derive(Debug)]
struct Turning {
    path: PathBuf,
    file: File,
    size: u64,
    turn_at: u64,
}

impl Turning {
    fn open(path: &Path, turn_at: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        // It says who fetched what.
        let file = atoll_sys::file::private(&mut options).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, turn_at })
    }

    /// Writes whole lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size >= self.turn_at {
            self.turn()?;
        }
        self.file.write_all(lines)?;
        self.size += u64::try_from(lines.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            let from = numbered(&self.path, number);
            if from.exists() {
                fs::rename(from, numbered(&self.path, number + 1))?;
            }
        }
        fs::rename(&self.path, numbered(&self.path, 1))?;
        *self = Self::open(&self.path, self.turn_at)?;
        Ok(())
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{number}"));
    path.with_file_name(name)
}

/// The last lines of a file that may not be there yet; lines that are none of ours are left out.
fn tail(path: &Path) -> io::Result<Vec<Line>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut lines = Vec::new();
    for text in BufReader::new(file).split(b'\n') {
        let mut text = text?;
        if serde_json::from_slice::<Record<'_>>(&text).is_ok() {
            text.push(b'\n');
            lines.push(Line { text: text.into() });
        }
    }
    Ok(lines)
}

/// Bytes at which the file turns. `[guess]`
const TURN_AT: u64 = 64 << 20;

/// Bytes of lines that are written at a time.
const PIECE: usize = 16 << 10;

/// Such pieces, and bytes of them, that wait for standard output. `[guess]`
const QUEUE: usize = 8_192;
const QUEUE_BYTES: usize = 8 << 20;

/// For the last of them, at the end.
const LAST: Duration = Duration::from_secs(1);

/// Old files kept beside the one written.
const KEPT: u32 = 4;

/// Lines in memory for `/_log`. `[guess]`
pub(crate) const LINES: usize = 10_000;

/// Bytes of them.
const LINES_BYTES: usize = 8 << 20;

/// Bytes read of a file at start.
const TAIL: u64 = 4 << 20;

/// Lines a follower may lag by.
const FOLLOWED: usize = 4_096;

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::front::record::{Asker, Outcome};

    fn record(key: &str, peer: &str) -> Record<'static> {
        let source = "".into();
        let outcome = Outcome { success: true, status: 200, bytes: 1, total: None, milliseconds: 0, source, at: 1 };
        Asker::of(([192, 0, 2, 1], 1).into(), None, key, &HeaderMap::new()).record(&outcome, peer, false).owned()
    }

    fn keys(lines: &[Bytes]) -> Vec<String> {
        let key = |line: &Bytes| serde_json::from_slice::<Record<'_>>(line).unwrap().data.key.into_owned();
        lines.iter().map(key).collect()
    }

    #[test]
    fn the_last_lines_are_filtered_by_key_and_peer_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("requests.log");
        let journal = Journal::open(&Target::File(path.clone())).unwrap();
        journal.append(&[record("/a/1", "http://p:1"), record("/b/1", "http://p:1"), record("/a/2", "http://q:2")]);
        drop(journal);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"no line of ours\n").unwrap();
        let journal = Journal::open(&Target::File(path.clone())).unwrap();
        let ask = |key: Option<&str>, peer: Option<&str>, most| {
            let filter = Filter { key: key.map(str::to_owned), peer: peer.map(str::to_owned) };
            keys(&journal.follow(&filter, most).0)
        };
        assert_eq!(ask(None, None, 9), ["/a/1", "/b/1", "/a/2"]);
        assert_eq!(ask(None, None, 2), ["/b/1", "/a/2"]);
        assert_eq!(ask(Some("/a"), None, 9), ["/a/1", "/a/2"]);
        assert_eq!(ask(None, Some("p:1"), 9), ["/a/1", "/b/1"]);
        assert_eq!(ask(Some("/a"), Some("http://q:2/"), 9), ["/a/2"]);
        assert!(atoll_sys::file::is_private(&path).unwrap(), "others can read who fetched what");
    }

    #[test]
    fn followers_hear_what_comes() {
        let journal = Journal::open(&Target::Memory).unwrap();
        let (before, mut fresh) = journal.follow(&Filter::default(), 9);
        assert!(before.is_empty());
        journal.append(&[record("/a", "p")]);
        assert_eq!(keys(&[fresh.try_recv().unwrap().text]), ["/a"]);
    }

    #[test]
    fn a_large_file_turns_and_few_old_ones_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = Turning::open(&path, 10).unwrap();
        for number in 0..8 {
            file.write(format!("line number {number}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).ok();
        assert_eq!(read("log").as_deref(), Some("line number 7\n"));
        assert_eq!(read("log.1").as_deref(), Some("line number 6\n"));
        assert_eq!(read("log.4").as_deref(), Some("line number 3\n"));
        assert_eq!(read("log.5"), None);
    }

    #[test]
    fn memory_holds_a_bounded_number_of_lines() {
        let journal = Journal::open(&Target::Memory).unwrap();
        let many: Vec<Record<'_>> = (0..LINES + 5).map(|n| record(&format!("/{n}"), "p")).collect();
        journal.append(&many);
        let lines = journal.follow(&Filter::default(), usize::MAX).0;
        assert_eq!((lines.len(), keys(&lines[..1])), (LINES, vec!["/5".to_owned()]));
    }
}

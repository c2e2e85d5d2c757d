//! The access log: one line a request, in the columns that Hornet's last version wrote, so that what reads its logs reads these.
//!
//! ```text
//! 10000 UNIX-TIME COST-MS METHOD URI STATUS RECEIVED-BYTES SENT-BYTES ERROR SERVER-EXT CLIENT-EXT
//! ```
//!
//! Columns are separated by one space; an empty one is `-`. SERVER-EXT is the tier of a hit (`memory`, `disk`) or the number of a
//! deletion (`purge=17`); CLIENT-EXT is the request's field of the configured name. What came from outside cannot end a column
//! or a line, or reach a terminal: every byte but printable ASCII is written as `%XX`, and it is cut at a length.
//!
//! Workers gather lines and hand them over in blocks; a thread of the log's own writes them, so that a slow disk or a pipe that
//! nobody reads delays no request. Past a few blocks lines are dropped and counted in the error log. A kill -9 loses the last
//! second's.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use super::answer::push_number;

/// One request.
#[derive(Debug)]
pub(super) struct Line<'l> {
    /// Seconds since 1970.
    pub(super) time: u64,
    pub(super) cost_ms: u64,
    pub(super) method: &'l [u8],
    pub(super) uri: &'l [u8],
    pub(super) status: u16,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) error: &'l str,
    pub(super) server_ext: &'l str,
    /// A deletion's number, in place of `server_ext`.
    pub(super) purge: Option<u64>,
    pub(super) client_ext: &'l [u8],
}

/// The log and the thread that writes it.
#[derive(Debug)]
pub(super) struct AccessLog {
    orders: SyncSender<Order>,
    thread: Option<JoinHandle<()>>,
    dropped: Arc<AtomicU64>,
}

/// What one worker gathers.
#[derive(Debug)]
pub(super) struct Gathered {
    lines: Mutex<Vec<u8>>,
    orders: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
}

enum Order {
    Write(Vec<u8>),
    Reopen,
    End,
}

impl AccessLog {
    /// Opens the file and starts the thread.
    pub(super) fn start(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let (orders, taken) = sync_channel(BLOCKS);
        let dropped = Arc::new(AtomicU64::new(0));
        let (path, lost) = (path.to_owned(), Arc::clone(&dropped));
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        let thread = thread.spawn(move || write_all(&path, file, &taken, &lost))?;
        Ok(Self { orders, thread: Some(thread), dropped })
    }

    /// For one worker.
    pub(super) fn gatherer(&self) -> Gathered {
        Gathered { lines: Mutex::default(), orders: self.orders.clone(), dropped: Arc::clone(&self.dropped) }
    }

    /// Opens the file anew, after it was moved away.
    pub(super) fn reopen(&self) {
        // Waits for the thread at most as long as the disk lets it wait; nobody serves from here.
        let _ = self.orders.send(Order::Reopen);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Gathered {
    /// Adds a line.
    pub(super) fn add(&self, line: &Line<'_>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        line.write(&mut lines);
        if lines.len() >= BLOCK {
            self.hand_over(&mut lines);
        }
    }

    /// Hands over what was gathered.
    pub(super) fn flush(&self) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if !lines.is_empty() {
            self.hand_over(&mut lines);
        }
    }

    fn hand_over(&self, lines: &mut Vec<u8>) {
        let block = std::mem::replace(lines, Vec::with_capacity(BLOCK + LINE_LIMIT));
        if let Err(TrySendError::Full(Order::Write(block))) = self.orders.try_send(Order::Write(block)) {
            let count = block.iter().filter(|byte| **byte == b'\n').count();
            self.dropped.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

impl Line<'_> {
    fn write(&self, to: &mut Vec<u8>) {
        let number = |value: u64, to: &mut Vec<u8>| {
            push_number(to, value);
            to.push(b' ');
        };
        to.extend_from_slice(b"10000 ");
        number(self.time, to);
        number(self.cost_ms, to);
        column(self.method, METHOD_LIMIT, to);
        column(self.uri, URI_LIMIT, to);
        number(u64::from(self.status), to);
        number(self.received, to);
        number(self.sent, to);
        column(self.error.as_bytes(), EXT_LIMIT, to);
        match self.purge {
            Some(purge) => {
                to.extend_from_slice(b"purge=");
                number(purge, to);
            }
            None => column(self.server_ext.as_bytes(), EXT_LIMIT, to),
        }
        column(self.client_ext, EXT_LIMIT, to);
        to.pop();
        to.push(b'\n');
    }
}

/// Text from anywhere, as one column and the space behind it.
fn column(text: &[u8], limit: usize, to: &mut Vec<u8>) {
    let text = &text[..text.len().min(limit)];
    if text.is_empty() {
        to.push(b'-');
    } else if text.iter().all(u8::is_ascii_graphic) {
        to.extend_from_slice(text);
    } else {
        for byte in text {
            if byte.is_ascii_graphic() {
                to.push(*byte);
            } else {
                // Writing to memory does not fail.
                let _ = write!(to, "%{byte:02X}");
            }
        }
    }
    to.push(b' ');
}

fn write_all(path: &Path, mut file: File, orders: &Receiver<Order>, dropped: &AtomicU64) {
    let mut failing = false;
    while let Ok(order) = orders.recv() {
        match order {
            Order::Write(block) => {
                let written = file.write_all(&block);
                if let Err(error) = &written
                    && !failing
                {
                    tracing::error!(%error, path = %path.display(), "the access log cannot be written");
                }
                failing = written.is_err();
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    tracing::warn!(lines = lost, "the access log was too slow and lost lines");
                }
            }
            Order::Reopen => match open(path) {
                Ok(opened) => file = opened,
                Err(error) => tracing::error!(%error, path = %path.display(), "the access log was not reopened"),
            },
            Order::End => return,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let path: PathBuf = path.to_owned();
    OpenOptions::new().create(true).append(true).open(path)
}

/// Bytes that a worker gathers before it hands them over.
const BLOCK: usize = 64 << 10;

/// Blocks that may wait to be written.
const BLOCKS: usize = 64;

/// Bytes of what a line repeats of a request.
const METHOD_LIMIT: usize = 20;
const URI_LIMIT: usize = 1_024;
const EXT_LIMIT: usize = 1_024;

/// Bytes of the longest line: every byte of it written as three.
const LINE_LIMIT: usize = 3 * (METHOD_LIMIT + URI_LIMIT + 3 * EXT_LIMIT) + 160;

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Line<'static> = Line {
        time: 1_000,
        cost_ms: 2,
        method: b"GET",
        uri: b"/1/2",
        status: 200,
        received: 30,
        sent: 400,
        error: "",
        server_ext: "memory",
        purge: None,
        client_ext: b"",
    };

    fn written(line: &Line<'_>) -> String {
        let mut bytes = Vec::new();
        line.write(&mut bytes);
        assert!(bytes.len() <= LINE_LIMIT);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_request_is_one_line_of_hornets_columns() {
        assert_eq!(written(&LINE), "10000 1000 2 GET /1/2 200 30 400 - memory -\n");
        let deletion = Line { method: b"DEL", purge: Some(17), client_ext: b"http://a.test/x", ..LINE };
        assert_eq!(written(&deletion), "10000 1000 2 DEL /1/2 200 30 400 - purge=17 http://a.test/x\n");
    }

    /// R04: nothing from outside ends a column or a line, or reaches a terminal.
    #[test]
    fn foreign_bytes_stay_in_their_column() {
        let long = [0xff; 5_000];
        let line = Line { uri: b"/a b\r\n10000 forged", client_ext: &long, error: "the line \u{1b}[2J", ..LINE };
        let text = written(&line);
        assert_eq!(text.matches('\n').count(), 1);
        assert_eq!(text.matches(' ').count(), 10);
        assert!(text.contains("/a%20b%0D%0A10000%20forged") && text.is_ascii(), "{text}");
    }

    #[test]
    fn a_log_that_was_moved_away_is_opened_anew_and_no_line_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access");
        let log = AccessLog::start(&path).unwrap();
        let gathered = log.gatherer();
        gathered.add(&LINE);
        gathered.flush();
        // The thread takes orders in turn: what was handed over before is written before.
        log.reopen();
        while std::fs::read_to_string(&path).unwrap().is_empty() {
            std::thread::yield_now();
        }
        std::fs::rename(&path, folder.path().join("access.1")).unwrap();
        log.reopen();
        gathered.add(&LINE);
        gathered.flush();
        drop(log);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(std::fs::read_to_string(folder.path().join("access.1")).unwrap().lines().count(), 1);
    }

    #[test]
    fn past_its_bound_lines_are_dropped_and_counted() {
        let (orders, _taken) = sync_channel(BLOCKS);
        let dropped = Arc::new(AtomicU64::new(0));
        let gathered = Gathered { lines: Mutex::default(), orders, dropped: Arc::clone(&dropped) };
        for _ in 0..BLOCKS + 3 {
            gathered.add(&LINE);
            gathered.flush();
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
    }
}

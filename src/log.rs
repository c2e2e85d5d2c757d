//! The node's log: one event a line to standard error or to a file that is reopened on SIGUSR1. A value that came from
//! outside cannot end the line or reach the terminal: control characters are written as escapes, whatever the field.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::config::LogConfig;

/// The log of this process, once started.
#[derive(Clone)]
pub struct Log {
    sink: Arc<Sink>,
}

impl Log {
    /// Starts logging for the whole process. A log that already runs (in tests) goes on, and the new one is not used.
    pub fn start(config: &LogConfig) -> Result<Self, LogError> {
        let filter = filter(&config.level).map_err(|error| LogError::Level(config.level.clone(), error))?;
        let log = Self { sink: Arc::new(Sink::open(config.file.as_deref())?) };
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(Writers(log.sink.clone()))
            .finish();
        let _ = tracing::subscriber::set_global_default(subscriber);
        Ok(log)
    }

    /// Opens the file anew, after it was moved away. On an error the old one goes on.
    pub fn reopen(&self) -> Result<(), LogError> {
        let Some(path) = &self.sink.path else { return Ok(()) };
        let file = open(path)?;
        *self.sink.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }
}

/// Why no log could be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The configured level is none.
    #[error("{0:?} is no log level: {1}")]
    Level(String, String),
    /// The configured file cannot be written.
    #[error("log file {} cannot be opened: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A level, or a list of `target=level`, as a filter.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    // EnvFilter takes any word for a target; the first entry of ours is a level, so that a typo is not an empty log.
    let first = level.split(',').next().unwrap_or_default();
    if !["off", "error", "warn", "info", "debug", "trace"].contains(&first) {
        return Err(format!("it starts with {first:?}"));
    }
    EnvFilter::try_new(level).map_err(|error| error.to_string())
}

/// Where the bytes go.
struct Sink {
    path: Option<PathBuf>,
    /// None: standard error.
    file: Mutex<Option<File>>,
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, LogError> {
        let file = path.map(open).transpose()?;
        Ok(Self { path: path.map(Path::to_owned), file: Mutex::new(file) })
    }
}

fn open(path: &Path) -> Result<File, LogError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| LogError::File { path: path.to_owned(), error })
}

/// Hands a writer to each event.
struct Writers(Arc<Sink>);

impl<'w> MakeWriter<'w> for Writers {
    type Writer = OneLine<'w>;

    fn make_writer(&'w self) -> OneLine<'w> {
        OneLine(&self.0)
    }
}

/// Takes one whole event and writes it as one line. The formatter hands over an event in a single write.
struct OneLine<'s>(&'s Sink);

impl Write for OneLine<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = one_line(event);
        let mut file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written must not stop the node: the event is lost.
        let _ = match &mut *file {
            Some(file) => file.write_all(&line),
            None => io::stderr().lock().write_all(&line),
        };
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The event with its control characters but the last newline escaped.
fn one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let mut line = crate::out::plain(text.strip_suffix('\n').unwrap_or(&text)).into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stays_one_line_whatever_its_fields_hold() {
        let event = b"INFO host=a\r\nERROR forged \x1b[2J \xff\n";
        assert_eq!(one_line(event), "INFO host=a\\r\\nERROR forged \\u{1b}[2J \u{fffd}\n".as_bytes());
    }

    #[test]
    fn a_level_with_a_typo_is_refused_rather_than_taken_for_a_target() {
        assert!(filter("info").is_ok());
        assert!(filter("warn,atoll_proxy=debug").is_ok());
        assert!(filter("inof").is_err());
        assert!(filter("").is_err());
    }

    #[test]
    fn a_log_file_that_was_moved_away_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log { sink: Arc::new(Sink::open(Some(&path)).unwrap()) };
        OneLine(&log.sink).write_all(b"one\n").unwrap();
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        log.reopen().unwrap();
        OneLine(&log.sink).write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(std::fs::read_to_string(folder.path().join("log.1")).unwrap(), "one\n");
    }
}

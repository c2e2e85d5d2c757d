//! What a warming has done so far, in a file: a line of JSON for each copy that is whole. A run that was ended goes on after it; one
//! that is done removes it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// One copy that came whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) url: String,
    /// The node's id.
    pub(super) node: String,
    pub(super) bytes: u64,
    /// BLAKE3, hexadecimal.
    pub(super) blake3: String,
}

/// The file, and what it says.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    done: BTreeMap<(String, String), Done>,
}

impl Journal {
    /// Opens the file, or begins it. A line that is damaged (the last one, of a run that was cut) counts as not done.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let before = match fs::read(path) {
            Ok(before) => before,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let lines = before.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Done>(line).ok());
        let done = lines.map(|one| ((one.url.clone(), one.node.clone()), one)).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if before.last().is_some_and(|last| *last != b'\n') {
            file.write_all(b"\n")?;
        }
        Ok(Self { path: path.to_owned(), file, done })
    }

    /// What is noted of a copy.
    pub(super) fn find(&self, url: &str, node: &str) -> Option<&Done> {
        self.done.get(&(url.to_owned(), node.to_owned()))
    }

    /// Notes a copy.
    pub(super) fn note(&mut self, done: Done) -> io::Result<()> {
        let mut line = serde_json::to_vec(&done)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.done.insert((done.url.clone(), done.node.clone()), done);
        Ok(())
    }

    /// All is done: the file has no more use.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_found_again_even_if_the_last_line_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/journal");
        let done = |url: &str| Done { url: url.to_owned(), node: "n".to_owned(), bytes: 5, blake3: "ab".to_owned() };
        let mut journal = Journal::open(&path).unwrap();
        journal.note(done("http://a.test/1")).unwrap();
        journal.note(done("http://a.test/2")).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut again = Journal::open(&path).unwrap();
            let first = again.find("http://a.test/1", "n").is_some();
            assert!(again.find("http://a.test/2", "n").is_none() || cut >= whole.len() - 1);
            again.note(done("http://a.test/3")).unwrap();
            let third = Journal::open(&path).unwrap();
            assert_eq!(third.find("http://a.test/1", "n").is_some(), first);
            assert!(third.find("http://a.test/3", "n").is_some(), "cut at {cut}");
        }
        Journal::open(&path).unwrap().remove().unwrap();
        assert!(!path.exists());
    }
}

//! Sampled questions as JSON, a line each. Whether one is sampled follows from the question and who asks, so that the fast path
//! leaves exactly those to the whole one. Lines wait in a bounded queue for the one task that writes; past it they are counted
//! and lost. Clients are logged as prefixes.

use std::{
    fmt::Write as _,
    hash::Hasher as _,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use atoll_overlay::Prefix;
use hickory_proto::rr::{Name, RecordType};
use siphasher::sip::SipHasher13;
use tokio::{fs::OpenOptions, io::AsyncWriteExt as _, sync::mpsc};

use crate::{
    answer::Answer,
    redirector::Redirector,
    reply::code_name,
    respond::{Asked, Outcome},
};

impl Redirector {
    /// Takes up logging questions; what is to be written comes out.
    pub(crate) fn log_to(&self) -> mpsc::Receiver<String> {
        let (log, lines) = mpsc::channel(QUEUE);
        // A second log would get nothing; there is one place that asks.
        let _ = self.log.set(log);
        lines
    }

    /// Whether a question is to be logged.
    pub(crate) fn is_sampled(&self, query: &[u8], from: SocketAddr) -> bool {
        self.log.get().is_some() && is_sampled(self.config.query_log.one_in, query, from)
    }

    /// Writes a question down; of one that could not be read there is no name and type.
    pub(crate) fn note(
        &self,
        asked: &Asked<'_>,
        question: Option<(&Name, RecordType)>,
        answer: &Answer,
        outcome: &Outcome,
    ) {
        let bytes = if let Outcome::Reply(bytes) = outcome { bytes.len() } else { 0 };
        let line = line(question, asked, answer, bytes);
        if self.log.get().is_none_or(|log| log.try_send(line).is_err()) {
            metrics::counter!("atoll_dns_query_log_dropped_total").increment(1);
        }
    }
}

/// Whether a question is among one in so many; 0: none is.
pub(crate) fn is_sampled(one_in: u32, query: &[u8], from: SocketAddr) -> bool {
    match one_in {
        0 => false,
        1 => true,
        _ => {
            let mut hash = SipHasher13::new();
            hash.write(query);
            hash.write_u16(from.port());
            hash.finish().is_multiple_of(u64::from(one_in))
        }
    }
}

/// One question and what became of it, as a line.
fn line(question: Option<(&Name, RecordType)>, asked: &Asked<'_>, answer: &Answer, bytes: usize) -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let prefix = Prefix::of(asked.from.ip().to_canonical());
    let mut line = format!(
        "{{\"time\":{}.{:03},\"client\":\"{prefix}\",\"transport\":\"{}\"",
        time.as_secs(),
        time.subsec_millis(),
        asked.transport.name()
    );
    if let Some((name, kind)) = question {
        line.push_str(",\"name\":\"");
        for character in name.to_ascii().chars() {
            match character {
                '"' | '\\' => line.extend(['\\', character]),
                other if other.is_control() => _ = write!(line, "\\u{:04x}", u32::from(other)),
                other => line.push(other),
            }
        }
        let _ = write!(line, "\",\"type\":\"{kind}\"");
    }
    let _ = write!(line, ",\"rcode\":\"{}\"", code_name(answer.code));
    if let Some(level) = answer.level {
        let _ = write!(line, ",\"level\":{}", level.0);
    }
    if let Some(why) = answer.why {
        let _ = write!(line, ",\"placed_by\":\"{why}\"");
    }
    let _ = writeln!(line, ",\"bytes\":{bytes}}}");
    line
}

/// Writes lines for as long as any can come. The file is opened anew for each batch, so that it may be moved away at any time.
pub(crate) async fn run(file: PathBuf, mut lines: mpsc::Receiver<String>) {
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, QUEUE).await > 0 {
        let text = batch.concat();
        batch.clear();
        let written = async {
            let mut file = OpenOptions::new().append(true).create(true).open(&file).await?;
            file.write_all(text.as_bytes()).await?;
            file.flush().await
        };
        if let Err(error) = written.await {
            tracing::warn!(file = %file.display(), %error, "the query log cannot be written");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Lines that wait to be written.
pub(crate) const QUEUE: usize = 4096;
/// Before the next try of a file that cannot be written.
const PAUSE: Duration = Duration::from_secs(1);

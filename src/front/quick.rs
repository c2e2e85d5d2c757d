//! Plain requests at the front, before any parser: what the desk decides of them, counted and recorded as all others are.

use std::{io::Write as _, sync::Arc, time::SystemTime};

use atoll_proxy::{Early, Front, Gated, PlainRequest};
use http::Response;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    listen::{Client, Desk},
    meter::Passing,
    record::Asker,
};

/// Puts a client's stream behind the proxy's gate, with the desk to decide of what is plain.
pub(super) fn gate<D: Desk, S>(desk: &Arc<D>, client: Client, stream: S) -> Gated<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let front = Quick { desk: Arc::clone(desk), client, passing: None };
    let service = desk.service();
    service.proxy.behind_gate(stream, client.address, service.site.ahead(Box::new(front)))
}

/// Writes an answer without a body as the parser behind would write it.
pub(crate) fn write<B>(answer: &Response<B>, now: SystemTime, head: &mut Vec<u8>) {
    let status = answer.status();
    // Writing to memory cannot fail.
    let _ = write!(head, "HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    for (name, value) in answer.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    let _ = write!(head, "content-length: 0\r\ndate: {}\r\n\r\n", httpdate::HttpDate::from(now));
}

/// One connection.
struct Quick<D: Desk> {
    desk: Arc<D>,
    client: Client,
    /// The answer out of RAM that is under way.
    passing: Option<Passing>,
}

impl<D: Desk> Front for Quick<D> {
    fn decide(&mut self, asked: PlainRequest<'_>, head: &mut Vec<u8>) -> Early {
        self.desk.decide(self.client, asked.target, head)
    }

    fn begins(&mut self, asked: PlainRequest<'_>, body: u64) {
        let asker = Asker::plain(self.client.address, self.client.rtt_us, asked);
        self.passing = Some(self.desk.service().meter.begins(asker, body));
    }

    fn sent(&mut self, bytes: u64) {
        let meter = &self.desk.service().meter;
        if let Some(passing) = self.passing.take_if(|passing| meter.passed(passing, bytes)) {
            meter.left_off(passing, true);
        }
    }
}

impl<D: Desk> Drop for Quick<D> {
    fn drop(&mut self) {
        if let Some(passing) = self.passing.take() {
            self.desk.service().meter.left_off(passing, false);
        }
    }
}

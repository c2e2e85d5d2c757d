//! `atoll trace URL`: one request followed from the DNS answer to its last byte, each step with its time.
//!
//! ```text
//!   atoll trace --socket--> node here: why DNS leads where (its own redirector), a pass signed with its key
//!                             | GET with Atoll-Trace: PASS
//!                             v
//!                           node asked: answers as ever, notes its steps
//!                             ^
//!                             | GET /.well-known/atoll/trace with the same pass
//!   atoll trace <--Report-----'
//! ```
//!
//! The node here does the asking, since its key is what other nodes believe. Read [`Report`] first.

mod ask;
mod report;

pub use ask::Wanted;
pub(crate) use ask::{Here, ask};
pub use report::{Report, Step};

use std::path::Path;

use crate::{
    admin::{self, ClientError},
    cli::TraceArgs,
    purging,
};

/// What the node behind a socket finds out, as text or JSON.
pub async fn trace(socket: &Path, args: &TraceArgs) -> Result<String, ClientError> {
    let mut path = format!("/trace?url={}&from={}", purging::escape(&args.url), args.from);
    if let Some(node) = &args.node {
        path.push_str("&node=");
        path.push_str(&purging::escape(node));
    }
    let report: Report = admin::fetch_slowly(socket, &path).await?;
    Ok(if args.json { serde_json::to_string(&report).unwrap_or_default() } else { report.to_string() })
}

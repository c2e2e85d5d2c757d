//! `atoll explain NAME --from PREFIX`: how the node's answer for a client comes about, asked over its admin socket.

use std::{net::IpAddr, path::Path};

use crate::admin::{self, ClientError};

/// The facts, one a line.
pub async fn explain(socket: &Path, name: &str, from: IpAddr) -> Result<String, ClientError> {
    let escaped = crate::purging::escape(name);
    let lines = admin::fetch_lines(socket, &format!("/explain?name={escaped}&from={from}")).await?;
    Ok(lines.join("\n"))
}

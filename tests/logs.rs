//! The access log of a whole node, in each of its formats, moved away while the node runs (issue 7).

use std::{net::SocketAddr, path::Path};

use bytes::Bytes;
use tempfile::TempDir;

use crate::support::{Origin, Process, eventually, get, listening};

#[tokio::test(flavor = "multi_thread")]
async fn sigusr1_has_the_access_log_begun_anew_in_every_format() {
    let folder = TempDir::new().unwrap();
    let origin = Origin::start(Bytes::from_static(b"body"), 100 << 20).await;
    for format in ["json", "clf", "w3c"] {
        let folder = folder.path().join(format);
        std::fs::create_dir_all(&folder).unwrap();
        let (log, old) = (folder.join("access"), folder.join("access.1"));
        let node = Process::start(&folder, &config(&folder, &log, format, origin.address)).await;
        let http: SocketAddr = listening(&node.status().await.unwrap(), "http").parse().unwrap();
        assert_eq!(get(http, "own.test", "/before").await.unwrap().body, "body");
        let lines = |file: &Path| std::fs::read_to_string(file).unwrap_or_default();
        eventually("the first line is written", async || lines(&log).contains("/before")).await;
        std::fs::rename(&log, &old).unwrap();
        assert_eq!(get(http, "own.test", "/between").await.unwrap().body, "body");
        eventually("the moved file is written on", async || lines(&old).contains("/between")).await;
        node.signal("-USR1");
        eventually("a new file is there", async || log.exists()).await;
        assert_eq!(get(http, "own.test", "/after").await.unwrap().body, "body");
        eventually("the new file is written", async || lines(&log).contains("/after")).await;
        let (first, second) = (lines(&old), lines(&log));
        assert!(!first.contains("/after") && !second.contains("/before"), "{format}: {first}\n{second}");
        for (file, requests) in [(&first, 2), (&second, 1)] {
            let (head, rest): (Vec<_>, Vec<_>) = file.lines().partition(|line| line.starts_with('#'));
            assert_eq!(rest.len(), requests, "{format}: {file}");
            let fields = head.iter().filter(|line| line.starts_with("#Fields: date time ")).count();
            assert_eq!((head.len(), fields), if format == "w3c" { (3, 1) } else { (0, 0) }, "{format}: {file}");
            assert!(format != "w3c" || file.starts_with("#Version: 1.0\n"), "{file}");
        }
    }
}

fn config(folder: &Path, log: &Path, format: &str, origin: SocketAddr) -> String {
    format!(
        "[node]\nroles = [\"proxy\"]\nstate = \"{}/state\"\ndrain_wait = \"0s\"\n\n\
         [overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\n\
         [proxy]\nlisten = [\"127.0.0.1:0\"]\n[proxy.access_log]\nfile = \"{}\"\nformat = \"{format}\"\n\
         [proxy.sites.\"*\"]\norigin = \"http://{origin}\"\n",
        folder.display(),
        log.display(),
    )
}

//! A large file that cold nodes are asked for at once, each behind a line as thin as the origin's: it leaves the origin once, and
//! spreads as a chain, so that the last has it hardly later than one that downloads it directly.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{
    flash_crowd::{origin, origin_log},
    outcome::Wanted,
    stage::{Stage, clients, http, nodes, say_aside},
};
use crate::{
    error::Error,
    lab::Lab,
    programs::origin_content,
    scenario::{Host, OriginFile, Role},
    units::Size,
};

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), Error> {
    let size = stage.by_scale(Size(10_000_000), Size(200_000_000));
    let lab = stage.up(|scenario| {
        for host in &mut scenario.hosts {
            if let Role::Origin { files, .. } = &mut host.role {
                files.iter_mut().for_each(|file| file.size = size);
            }
        }
    })?;
    // Whom a node is near to makes no difference where all lines are alike.
    stage.whole_within(&lab, Duration::from_secs(stage.by_scale(20, 90)))?;
    let (host, files) = origin(&lab)?;
    let whole = origin_content(&files[0].path, files[0].size);
    let coralized = format!("www.site.test.{}", lab.scenario().zone);
    let took = std::thread::scope(|scope| {
        let ask = |node: &Host| download(&lab, &node.name, node.id.v4().into(), (&coralized, &files[0]), &whole);
        let asking: Vec<_> = nodes(&lab).into_iter().map(|node| scope.spawn(move || ask(node))).collect();
        asking.into_iter().map(|thread| thread.join().unwrap_or(f64::NAN)).collect::<Vec<f64>>()
    });
    // It logs a request once it is over, which for the last bytes of a thin line is later than here.
    stage.wait_until(Duration::from_secs(30), || origin_log(&lab, host).is_ok_and(|log| !log.is_empty()))?;
    let sent = origin_log(&lab, host)?.len();
    let direct = clients(&lab)
        .first()
        .map_or(f64::NAN, |home| download(&lab, &home.name, host.id.v4().into(), ("www.site.test", &files[0]), &whole));
    let failed = took.iter().filter(|took| took.is_nan()).count();
    let last = took.iter().copied().fold(0.0, f64::max);
    stage.claim("failed", failed as f64, "", Wanted::Exactly(0.0));
    stage.claim("sent_by_the_origin", sent as f64, "", Wanted::Exactly(1.0));
    stage.figure("direct", direct, "s");
    stage.figure("last_node", last, "s");
    // Shared among all who ask, the first node's line would make it 3 and more.
    let bound = stage.by_scale(2.0, 1.3);
    stage.claim("last_over_direct", last / direct, "", Wanted::AtMost(bound));
    stage.figures_of_nodes(&lab);
    Ok(())
}

/// Seconds until a host had the file from an address; not a number if it did not get it, byte for byte.
fn download(lab: &Lab, host: &str, from: IpAddr, (name, file): (&str, &OriginFile), whole: &[u8]) -> f64 {
    let start = Instant::now();
    match lab.within(host, || read(from, name, &file.path, whole)) {
        Ok(Ok(())) => start.elapsed().as_secs_f64(),
        Ok(Err(error)) => {
            say_aside(&format!("  {host}: {error}, after {:.1} s", start.elapsed().as_secs_f64()));
            f64::NAN
        }
        Err(error) => {
            say_aside(&format!("  {host}: {error}"));
            f64::NAN
        }
    }
}

/// Reads an answer and compares its body as it comes: ten of them do not fit in memory.
fn read(from: IpAddr, name: &str, path: &str, whole: &[u8]) -> io::Result<()> {
    let wrong = |what: &str| io::Error::other(what.to_owned());
    let mut stream = TcpStream::connect_timeout(&http(from), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let (mut head, mut one) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16_384 {
        stream.read_exact(&mut one)?;
        head.extend_from_slice(&one);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = format!("content-length: {}\r\n", whole.len());
    if !head.starts_with("http/1.1 200 ") || !head.contains(&length) {
        return Err(wrong(head.lines().next().unwrap_or("no answer")));
    }
    let (mut rest, mut buffer) = (whole, vec![0; 256 << 10]);
    while !rest.is_empty() {
        let count = match stream.read(&mut buffer)? {
            0 => return Err(wrong("the body ended early")),
            count => count,
        };
        rest = rest.strip_prefix(&buffer[..count]).ok_or_else(|| wrong("other bytes than the origin's"))?;
    }
    Ok(())
}

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(60);

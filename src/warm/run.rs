//! The warming itself: each file is read from the first of its nodes, which fetches it, then from the others, which have it from their
//! peer, each time as a browser asks for it; then every node is to give what it holds, and that is compared with what was read.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    time::Duration,
};

use atoll_proxy::OriginUrl;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    board::Warmth,
    journal::{Done, Journal},
    nodes::{Nodes, Place, browsers_codings},
    sitemaps::wanted,
    throttle::Throttle,
    urls::{Meant, listed},
};
use crate::{
    admin,
    cli::WarmArgs,
    front::{
        amount::{rate, shown},
        home,
    },
    out::{complain, plain, say},
};

/// `atoll warm` without a manager: exit code 0 if every copy is whole and alike, and nothing that was named is refused;
/// 2 if it was asked wrongly.
pub async fn run(socket: PathBuf, args: WarmArgs) -> ExitCode {
    match warm(&socket, &args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            complain(why);
            ExitCode::FAILURE
        }
    }
}

async fn warm(socket: &Path, args: &WarmArgs) -> Result<bool, String> {
    let pace = match &args.rate {
        Some(text) => Some(rate(text).ok_or_else(|| format!("{text} is no rate, such as 50mbit or 6MB"))?),
        None => None,
    };
    let nodes: Nodes = admin::fetch_slowly(socket, "/nodes").await.map_err(|error| error.to_string())?;
    if nodes.nodes.is_empty() {
        return Err("the node knows none that serves HTTP".to_owned());
    }
    let throttle = Throttle::new(pace);
    let list = args.list.as_deref().map(listed).transpose()?.unwrap_or_default();
    let noted = args.state.clone().unwrap_or_else(|| default_state(args, &list));
    let Meant { urls, refused } = wanted(&nodes, &throttle, args, list).await?;
    refused.lines().for_each(|why| complain(plain(&format!("refused: {why}"))));
    if urls.is_empty() {
        return Err("there is nothing to warm".to_owned());
    }
    let mut journal = Journal::open(&noted).map_err(|error| format!("{}: {error}", noted.display()))?;
    let bars = Bars::new(&urls);
    let mut failures = Vec::new();
    for (place, url) in urls.iter().enumerate() {
        let mut sent = 0;
        for node in nodes.homes(url, args.copies.max(1)) {
            sent += 1;
            if journal.find(&url.to_string(), &node.id).is_some() {
                continue;
            }
            bars.begin(place, sent);
            match fetch(&nodes, url, node, As::Browser, &throttle, |at, length| bars.at(place, at, length)).await {
                Ok(done) => journal.note(done).map_err(|error| format!("{}: {error}", noted.display()))?,
                Err(why) => failures.push(format!("{url} at {}: {why}", node.address)),
            }
        }
        bars.end(place);
    }
    bars.clear();
    failures.iter().for_each(|why| complain(plain(why)));
    let whole = shown_all(socket, &nodes, &urls, args.copies.max(1), &journal).await && failures.is_empty();
    if whole {
        journal.remove().map_err(|error| format!("{}: {error}", noted.display()))?;
    } else {
        complain(format_args!("not all is done; the same command goes on (noted in {})", noted.display()));
    }
    if refused.count() > 0 {
        complain(format_args!(
            "{} of what was named is refused, see above; the rest was warmed as shown",
            refused.count()
        ));
    }
    Ok(whole && refused.count() == 0)
}

/// For whom a node is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    /// For this program, which reads what comes.
    Reader,
    /// As browsers ask: their variant is to be there for them.
    Browser,
    /// The same, if it is there.
    IfCached,
}

/// Reads a file to its end from one node.
async fn fetch(
    nodes: &Nodes,
    url: &OriginUrl,
    node: &Place,
    how: As,
    throttle: &Throttle,
    show: impl Fn(u64, Option<u64>),
) -> Result<Done, String> {
    let counted = Mutex::new((0, blake3::Hasher::new()));
    read_from(nodes, url, node, how, throttle, |data, length| {
        let mut counted = counted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        counted.0 += u64::try_from(data.len()).unwrap_or(u64::MAX);
        counted.1.update(data);
        show(counted.0, length);
        ControlFlow::Continue(())
    })
    .await?;
    let (bytes, hasher) = counted.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Done { url: url.to_string(), node: node.id.clone(), bytes, blake3: hasher.finalize().to_string() })
}

/// Asks a node for a URL and hands on its body as it comes, with its length if that is known, until its end or until no more is wanted.
pub(super) async fn read_from(
    nodes: &Nodes,
    url: &OriginUrl,
    node: &Place,
    how: As,
    throttle: &Throttle,
    take: impl Fn(&[u8], Option<u64>) -> ControlFlow<()>,
) -> Result<(), String> {
    if let Some(why) = nodes.unasked(url) {
        return Err(why);
    }
    let response = ask(nodes, url, node, how).await?;
    if response.status() != http::StatusCode::OK {
        return Err(format!("it answered {}", response.status()));
    }
    let length = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = response.into_body();
    loop {
        let frame = timeout(SILENCE, body.frame()).await.map_err(|_| format!("nothing came for {SILENCE:?}"))?;
        let Some(frame) = frame else { return Ok(()) };
        if let Ok(data) = frame.map_err(|error| format!("the body broke off: {error}"))?.into_data() {
            let further = take(&data, length);
            throttle.pass(data.len()).await;
            if further.is_break() {
                return Ok(());
            }
        }
    }
}

async fn ask(nodes: &Nodes, url: &OriginUrl, node: &Place, how: As) -> Result<http::Response<Incoming>, String> {
    let exchange = async {
        let stream = TcpStream::connect(node.address).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            // How it ends shows in the answer.
            let _ = connection.await;
        });
        let (host, target) = nodes.form(url, node);
        let mut request = Request::get(target).header(header::HOST, host);
        if how != As::Reader {
            request = request.header(header::ACCEPT_ENCODING, browsers_codings(url));
        }
        if how == As::IfCached {
            request = request.header(header::CACHE_CONTROL, "only-if-cached");
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        sender.send_request(request).await.map_err(|error| error.to_string())
    };
    timeout(SILENCE, exchange).await.map_err(|_| format!("no answer within {SILENCE:?}"))?
}

/// Shows what is cached where, here and on the dashboard of the node here; whether all of it is there, and the copies of each file
/// are alike.
async fn shown_all(socket: &Path, nodes: &Nodes, urls: &[OriginUrl], copies: usize, journal: &Journal) -> bool {
    let mut good = true;
    // Who has read a body to its end has it a moment before the store has, on a busy machine a long one.
    let patience = Instant::now() + STORED;
    for url in urls {
        let text = url.to_string();
        say(plain(&text));
        let mut alike: Option<&str> = None;
        for node in nodes.homes(url, copies) {
            let done = journal.find(&text, &node.id);
            let held = match done {
                Some(_) => held(nodes, url, node, patience).await,
                None => None,
            };
            let verified = match done {
                Some(done) => held.as_ref() == Some(done) && *alike.get_or_insert(&done.blake3) == done.blake3,
                None => false,
            };
            let told = match (done, &held) {
                (None, _) => "NOT FETCHED".to_owned(),
                (Some(done), _) if verified => format!("{}  verified, blake3 {}", shown(done.bytes), done.blake3),
                (Some(_), Some(held)) => format!("{}  DIFFERS: blake3 {}", shown(held.bytes), held.blake3),
                (Some(done), None) => format!("{}  NOT KEPT: it was read, and is not in the cache", shown(done.bytes)),
            };
            good &= verified;
            let short: String = node.id.chars().take(8).collect();
            say(format_args!("  {short}  {}  {told}", node.address));
            let (bytes, blake3) = done.map(|done| (done.bytes, done.blake3.clone())).unwrap_or_default();
            let found = Warmth { url: text.clone(), node: node.id.clone(), bytes, blake3, verified };
            // A node of an earlier version shows no warms; the copies are there all the same.
            if let Err(error) = admin::post(socket, &format!("/warmed?{}", found.query()), SILENCE).await {
                tracing::debug!(%error, "the node was not told what was warmed");
            }
        }
    }
    good
}

/// What a node holds of a file, read out of its cache to the end; if it holds none yet, it is asked again until then.
async fn held(nodes: &Nodes, url: &OriginUrl, node: &Place, until: Instant) -> Option<Done> {
    // What costs neither origin nor peers is not held back.
    let free = Throttle::new(None);
    loop {
        if let Ok(held) = fetch(nodes, url, node, As::IfCached, &free, |_, _| {}).await {
            return Some(held);
        }
        if Instant::now() >= until {
            return None;
        }
        sleep(AGAIN).await;
    }
}

/// A bar for each file.
struct Bars {
    all: MultiProgress,
    bars: Vec<ProgressBar>,
}

impl Bars {
    fn new(urls: &[OriginUrl]) -> Self {
        let all = MultiProgress::new();
        let style =
            ProgressStyle::with_template("{msg:48!} {prefix:>2} {wide_bar} {bytes:>10} of {total_bytes:<10} {eta:>4}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        // Of very many only the first are drawn; the rest would not fit on any terminal.
        let bar = |(place, url): (usize, &OriginUrl)| {
            let bar = ProgressBar::new(0).with_style(style.clone()).with_message(plain(&url.to_string()));
            if place < DRAWN { all.add(bar) } else { ProgressBar::hidden() }
        };
        let bars = urls.iter().enumerate().map(bar).collect();
        Self { all, bars }
    }

    fn begin(&self, place: usize, copy: usize) {
        if let Some(bar) = self.bars.get(place) {
            bar.set_prefix(copy.to_string());
            bar.set_position(0);
        }
    }

    fn at(&self, place: usize, at: u64, length: Option<u64>) {
        if let Some(bar) = self.bars.get(place) {
            bar.set_length(length.unwrap_or(at).max(1));
            bar.set_position(at);
        }
    }

    fn end(&self, place: usize) {
        if let Some(bar) = self.bars.get(place) {
            bar.finish();
        }
    }

    fn clear(&self) {
        // The bars were on the terminal only; what follows is for everybody.
        let _ = self.all.clear();
    }
}

/// A file for what was asked for, so that the same command finds it again: also when a sitemap cannot be read, or names other files by then.
fn default_state(args: &WarmArgs, list: &[String]) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{}\n", args.copies.max(1)).as_bytes());
    for (kind, texts) in [("file", &args.files[..]), ("list", list), ("sitemap", &args.sitemap[..])] {
        for text in texts {
            hasher.update(format!("{kind} {} {text}\n", text.len()).as_bytes());
        }
    }
    let name: String = hasher.finalize().to_string().chars().take(16).collect();
    home::first("warm").join(format!("{name}.jsonl"))
}

/// What was read may be on its way into a store for so long; asked for anew that often.
const STORED: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);

/// How long a node may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Files whose bars are drawn.
const DRAWN: usize = 64;

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A node that gives this to browsers that take it compressed, something else to others, and something else again out of its cache.
    async fn node(cached: &'static str) -> Place {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 4_096];
                let count = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..count]).to_ascii_lowercase();
                let body = match (head.contains("accept-encoding: gzip, deflate\r\n"), head.contains("only-if-cached"))
                {
                    (true, false) => "for browsers",
                    (true, true) => cached,
                    (false, _) => "for programs",
                };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Place { id: "a".to_owned(), address, cluster: String::new() }
    }

    #[tokio::test]
    async fn what_browsers_are_given_is_what_is_read_and_then_compared_with_the_cache() {
        let url = OriginUrl::parse("http://a.test/x").unwrap();
        let throttle = Throttle::new(None);
        for (cached, same) in [("for browsers", true), ("of another version", false), ("", false)] {
            let place = node(cached).await;
            let nodes = Nodes { zone: "nyud.example".to_owned(), sites: Vec::new(), nodes: vec![place.clone()] };
            let read = fetch(&nodes, &url, &place, As::Browser, &throttle, |_, _| {}).await.unwrap();
            assert_eq!((read.bytes, read.blake3.as_str()), (12, blake3::hash(b"for browsers").to_string().as_str()));
            let held = held(&nodes, &url, &place, Instant::now()).await.unwrap();
            assert_eq!(held == read, same, "{cached}");
            let plain = fetch(&nodes, &url, &place, As::Reader, &throttle, |_, _| {}).await.unwrap();
            assert_eq!(plain.blake3, blake3::hash(b"for programs").to_string());
        }
    }

    #[test]
    fn the_same_command_has_the_same_journal_and_another_one_another() {
        let of = |files: &[&str], list: &[&str], sitemaps: &[&str], copies: usize| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let none = WarmArgs {
                files: owned(files),
                sitemap: owned(sitemaps),
                list: None,
                manager: None,
                copies,
                rate: None,
                state: None,
                login: None,
                config: None,
                socket: None,
            };
            default_state(&none, &owned(list))
        };
        let asked = of(&["a", "b"], &["c"], &["s"], 2);
        assert_eq!(asked, of(&["a", "b"], &["c"], &["s"], 2), "whatever the sitemap names");
        let others = [
            of(&["a"], &["b", "c"], &["s"], 2),
            of(&["a", "b"], &[], &["c", "s"], 2),
            of(&["b", "a"], &["c"], &["s"], 2),
            of(&["a", "b"], &["c"], &["t"], 2),
            of(&["a\nfile 1 b"], &["c"], &["s"], 2),
            of(&["a", "b"], &["c"], &["s"], 3),
        ];
        assert!(!others.contains(&asked), "{asked:?} {others:?}");
        assert_eq!(others.iter().collect::<std::collections::BTreeSet<_>>().len(), others.len());
    }
}

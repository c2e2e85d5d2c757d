//! The manager's page in a real browser, as its operator uses it: by keyboard, on a phone.

use std::path::Path;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    browser::Browser,
    manager_storm::{Lent, body, download},
    support::{Origin, digest, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_by_keyboard_on_a_phone() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(body(4_000_000), 1 << 30).await;
    let manager = Lent::manager(folder.path(), origin.address, &[]).await;
    let mut peer = Lent::peer(folder.path(), "peer", &manager, &["--rate", "400kB"]).await;
    manager.is_with(&[&peer]).await;
    let (begin, begun) = tokio::sync::oneshot::channel();
    let (url, login, shown) =
        (format!("http://{}/_atoll/", manager.address), manager.login(), format!("http://{}", peer.address));
    let browser_folder = folder.path().join("browser");
    std::fs::create_dir(&browser_folder).unwrap();
    let looked = tokio::task::spawn_blocking(move || {
        let Some(mut browser) = Browser::start(&browser_folder) else { return false };
        browser.screen(360, 740);
        browser.open(&url);
        // Nothing is shown before the login.
        browser.until("!document.getElementById('gate').hidden && document.getElementById('board').hidden");
        browser.until("document.activeElement.id === 'token'");
        browser.write("not the token");
        browser.press("Enter");
        browser.until("document.getElementById('refused').textContent !== ''");
        browser.write(login.strip_prefix("Bearer ").unwrap());
        browser.press("Enter");
        browser.until(&format!("document.getElementById('peers').innerText.includes('{shown}')"));
        browser.until("document.getElementById('peers').innerText.includes('takes clients')");
        begin.send(()).unwrap();
        browser.until("document.querySelector('#downloads progress').value > 0");
        browser.until("document.getElementById('downloads').innerText.includes('/shown.iso')");
        assert_eq!(browser.eval("document.documentElement.scrollWidth <= 360"), true, "a phone must scroll sideways");
        let outside =
            "performance.getEntriesByType('resource').filter(e => !e.name.startsWith(location.origin)).length";
        assert_eq!(browser.eval(outside), 0, "something came from outside");
        assert_eq!(browser.eval("location.href.includes('token')"), false);
        // Every button is a Tab away, and Enter presses it.
        browser.tab_to("document.activeElement.textContent === 'Drain'");
        browser.press("Enter");
        browser.until("document.getElementById('peers').innerText.includes('it is leaving') || document.getElementById('peers').innerText === ''");
        browser.tab_to("document.activeElement.id === 'make'");
        browser.press("Enter");
        browser.until("document.getElementById('made').textContent.includes('atoll peer --manager')");
        true
    });
    // The sender goes with the browser's thread, whatever becomes of it.
    let running = begun.await.is_ok().then(|| tokio::spawn(download(manager.address, "/shown.iso")));
    if !looked.await.unwrap() {
        println!("SKIPPED: the page, for want of chromium");
        return;
    }
    assert_eq!(peer.ended().await, Some(0), "{}", peer.log());
    assert!(running.unwrap().await.unwrap().unwrap().0.starts_with("200 "), "drained, not cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_button_of_the_page_does_what_it_says_by_keyboard_on_a_phone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let origin = Origin::start(body(20_000_000), 1 << 30).await;
    let mut manager = Lent::manager(at, origin.address, &["--grace", "1h"]).await;
    let (login, own) = (manager.login(), format!("http://{}", manager.address));
    let login = login.strip_prefix("Bearer ").unwrap().to_owned();
    let beside = ["--beside", &own, "--beside-login", &login];
    let beside = Lent::manager(&at.join("beside"), origin.address, &beside).await;
    let slow = ["--rate", "400kB"];
    let mut stopped = Lent::peer(at, "stopped", &manager, &slow).await;
    let mut ejected = Lent::peer(at, "ejected", &manager, &slow).await;
    manager.is_with(&[&stopped, &ejected]).await;
    let address = stopped.address;
    let cut = tokio::spawn(async move { digest(address, "any.test", "/cut").await });
    eventually("a download runs", async || manager.says_of(&stopped, "in_flight").await == 1).await;
    let Some(mut page) = open(at, &manager).await else { return };
    page.until("document.getElementById('peers').children.length === 2 && document.getElementById('managers').children.length === 1").await;
    let label = |what: &str, peer: &Lent| {
        format!("document.activeElement.getAttribute('aria-label') === '{what} http://{}'", peer.address)
    };
    for named in [label("Drain", &ejected), label("Stop", &ejected), label("Eject", &stopped)] {
        page.tab_to(&named).await;
    }
    page.press(&label("Stop", &stopped)).await;
    assert_eq!(stopped.ended().await, Some(0), "{}", stopped.log());
    assert!(stopped.log().contains("stops this machine at once") && cut.await.unwrap().is_err(), "{}", stopped.log());
    page.press(&label("Eject", &ejected)).await;
    assert_eq!(ejected.ended().await, Some(1), "{}", ejected.log());
    assert!(ejected.log().contains("removed by the operator"), "{}", ejected.log());
    page.press("document.activeElement.getAttribute('aria-label')?.startsWith('Eject the manager of')").await;
    page.until("document.getElementById('beside').hidden").await;
    drop(beside);
    // A download of the manager's own, which its client does not take.
    let waiting = unread(&manager, "/waiting").await;
    let long = format!("/{}", "long-name-".repeat(30));
    assert!(download(manager.address, &long).await.unwrap().0.starts_with("200 "));
    page.until("document.getElementById('files').innerText.includes('long-name-')").await;
    for (width, height) in [(320, 640), (360, 740), (1280, 800)] {
        page.fits(width, height).await;
    }
    page.press("document.activeElement.id === 'leave'").await;
    page.until("document.getElementById('state').textContent === 'leaving'").await;
    assert!(manager.log().contains("leaving: 1 downloads run"), "{}", manager.log());
    let late = download(manager.address, "/late").await.unwrap();
    assert!(late.0.starts_with("503 "), "{late:?}");
    page.press("document.activeElement.id === 'halt'").await;
    assert_eq!(manager.ended().await, Some(0), "{}", manager.log());
    assert!(manager.log().contains("asked to stop at once"), "{}", manager.log());
    page.until("document.getElementById('state').textContent === 'the manager does not answer'").await;
    drop(waiting);
}

/// A client that has asked and takes nothing of the answer but its beginning.
async fn unread(manager: &Lent, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(manager.address).await.unwrap();
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: m\r\n\r\n").as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 1_000]).await.unwrap();
    stream
}

/// The manager's page, logged in; none, which is said, if there is no browser.
async fn open(folder: &Path, manager: &Lent) -> Option<Page> {
    let folder = folder.join("browser");
    std::fs::create_dir(&folder).unwrap();
    let token = manager.login().replace("Bearer ", "");
    let url = format!("http://{}/_atoll/#token={token}", manager.address);
    let browser = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start(&folder)?;
        browser.screen(360, 740);
        browser.open(&url);
        browser.until("document.getElementById('board')?.hidden === false");
        Some(browser)
    });
    let browser = browser.await.unwrap();
    if browser.is_none() {
        println!("SKIPPED: the page, for want of chromium");
    }
    browser.map(|browser| Page(Some(browser)))
}

/// A browser on threads that may wait.
struct Page(Option<Browser>);

impl Page {
    async fn with<T: Send + 'static>(&mut self, act: impl FnOnce(&mut Browser) -> T + Send + 'static) -> T {
        let mut browser = self.0.take().unwrap();
        let acted = tokio::task::spawn_blocking(move || {
            let came = act(&mut browser);
            (browser, came)
        });
        let (browser, came) = acted.await.unwrap();
        self.0 = Some(browser);
        came
    }

    async fn until(&mut self, expression: &str) {
        let expression = expression.to_owned();
        self.with(move |browser| browser.until(&expression)).await;
    }

    async fn tab_to(&mut self, expression: &str) {
        let expression = expression.to_owned();
        self.with(move |browser| browser.tab_to(&expression)).await;
    }

    /// Goes there by Tab, where the focus must be seen, and presses Enter.
    async fn press(&mut self, expression: &str) {
        self.tab_to(expression).await;
        self.with(|browser| {
            assert_eq!(
                browser.eval("getComputedStyle(document.activeElement).outlineStyle"),
                "solid",
                "no focus is seen"
            );
            browser.press("Enter");
        })
        .await;
    }

    /// On a screen of this size nothing lies beside it, and what is pressed is large enough for a finger.
    async fn fits(&mut self, width: u32, height: u32) {
        self.with(move |browser| {
            browser.screen(width, height);
            browser.until(&format!("document.documentElement.scrollWidth <= {width} && innerWidth === {width}"));
            let outside = "[...document.querySelectorAll('#board *')].filter(e => e.getClientRects().length && \
                           (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < 0)).length";
            assert_eq!(browser.eval(outside), 0, "something is cut at {width}");
            let small = "[...document.querySelectorAll('button')].filter(e => e.getClientRects().length && \
                         e.getBoundingClientRect().height < 44).length";
            assert_eq!(browser.eval(small), 0, "a button is too small for a finger");
        })
        .await;
    }
}

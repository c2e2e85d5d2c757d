//! Role manager end to end: a client without any DNS of ours is led by HTTP to a proxy that serves the page, and the operator
//! sees it in `atoll status`.

use std::process::Command;

use bytes::Bytes;
use http::{StatusCode, header};

use crate::support::{Origin, Process, get};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_led_by_http_to_a_proxy_that_serves_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = Bytes::from_static(b"<h1>an ordinary page</h1>");
    let origin = Origin::start(page.clone(), 1 << 30).await;
    let port = origin.address.port();
    let config = format!(
        "[node]\nroles = [\"proxy\", \"manager\"]\nstate = \"{}/state\"\nzone = \"nyud.example\"\naddresses = [\"127.0.0.1\"]\n\
         drain_wait = \"0s\"\n[overlay]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n[manager]\nlisten = [\"127.0.0.1:0\"]\n\
         [proxy]\nlisten = [\"127.0.0.1:0\"]\norigins = [\"www.site.test:{port}\"]\n\
         [proxy.hosts]\n\"www.site.test\" = [\"127.0.0.1\"]\n",
        folder.path().display()
    );
    let node = Process::start(folder.path(), &config).await;
    let status = node.status().await.unwrap();
    let listening = |service: &str| {
        let all = status["listen"].as_array().unwrap();
        all.iter().find(|listen| listen["service"] == service).unwrap()["address"].as_str().unwrap().to_owned()
    };
    let (manager, proxy) = (listening("manager").parse().unwrap(), listening("http"));

    let path = format!("/~/http/www.site.test:{port}/a%20b?c=d");
    let by_path = get(manager, "manager.test", &path).await.unwrap();
    assert_eq!(by_path.status, StatusCode::FOUND);
    assert_eq!(by_path.headers[header::LOCATION], format!("http://{proxy}{path}"));
    let by_name = get(manager, &format!("www.site.test.{port}.nyud.example"), "/a%20b?c=d").await.unwrap();
    assert_eq!(by_name.headers[header::LOCATION], by_path.headers[header::LOCATION]);

    let led = get(proxy.parse().unwrap(), &proxy, &path).await.unwrap();
    assert_eq!((led.status, led.body), (StatusCode::OK, page));
    assert_eq!(origin.requests(), 1);

    let told = Command::new(env!("CARGO_BIN_EXE_atoll"))
        .arg("status")
        .arg("--config")
        .arg(folder.path().join("atoll.toml"))
        .output()
        .unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("roles proxy,manager") && told.contains("1 requests (0 ungranted)"), "{told}");
}

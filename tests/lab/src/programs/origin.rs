//! Origins: nginx as people run it, one process, with files whose bytes follow from their paths and a log of requests.

use std::path::Path;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Program, Ready, installed};
use crate::{
    error::Error,
    scenario::{Host, OriginFile},
    units::Size,
};

pub(super) fn program(host: &Host, files: &[OriginFile], folder: &Path) -> Result<Program, Error> {
    let command = installed(host, "nginx", "nginx-light")?;
    let at = folder.display().to_string();
    let images: Vec<&str> = files.iter().map(|file| file.path.as_str()).filter(|path| path.ends_with(".bmp")).collect();
    let mut written: Vec<_> =
        files.iter().map(|file| (format!("www{}", file.path), content_with(&file.path, file.size, &images))).collect();
    written.push(("nginx.conf".into(), configuration(host, &at).into_bytes()));
    written.push(("tmp/.keep".into(), Vec::new()));
    let arguments = ["-p", &at, "-c", "nginx.conf", "-e", "stderr"].map(String::from).to_vec();
    Ok(Program { name: "nginx", command, arguments, files: written, ready: Ready::Http, stage: 1 })
}

/// The bytes of an origin's file, for whoever checks what arrived (pages, which name their images, apart).
pub fn content(path: &str, size: Size) -> Vec<u8> {
    content_with(path, size, &[])
}

fn content_with(path: &str, size: Size, images: &[&str]) -> Vec<u8> {
    let length = usize::try_from(size.0).unwrap_or(usize::MAX);
    if path.ends_with(".html") {
        let images: String = images.iter().map(|image| format!("<img src=\"{image}\" alt=\"{image}\">\n")).collect();
        let mut page = format!("<!doctype html>\n<title>{path}</title>\n{images}{REPORT}").into_bytes();
        page.resize(page.len().max(length), b' ');
        return page;
    }
    let mut bytes = vec![0; length];
    let seed = path.bytes().fold(0u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    if path.ends_with(".bmp") {
        paint(&mut bytes);
    }
    bytes
}

/// Puts the head of a 24-bit bitmap, 64 pixels wide, over the first 54 bytes; a shorter file stays noise.
fn paint(bytes: &mut [u8]) {
    let length = bytes.len();
    let Some(pixels) = length.checked_sub(BMP_HEAD) else { return };
    let rows = pixels / (BMP_WIDTH * 3);
    let mut head = b"BM".to_vec();
    // File size, reserved, offset of the pixels; then a BITMAPINFOHEADER: its size, width, height, one plane of 24 bits.
    let words = [length, 0, BMP_HEAD, 40, BMP_WIDTH, rows, 1 | 24 << 16, 0, rows * BMP_WIDTH * 3, 2835, 2835, 0, 0];
    head.extend(words.iter().flat_map(|word| u32::try_from(*word).unwrap_or(u32::MAX).to_le_bytes()));
    bytes[..BMP_HEAD].copy_from_slice(&head);
}

fn configuration(host: &Host, at: &str) -> String {
    let (v4, v6) = (host.id.v4(), host.id.v6());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {at}/tmp/{kind};\n"))
        .concat();
    format!(
        "user root;\ndaemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  types {{ text/html html; image/bmp bmp; }}\n  default_type application/octet-stream;\n  sendfile on;\n  keepalive_timeout 65;\n\
         {temporary}\
         \x20 log_format lab '$msec $remote_addr $host \"$request\" $status $body_bytes_sent';\n  access_log {at}/access.log lab;\n  \
         add_header Cache-Control \"max-age=3600\";\n  add_header Surrogate-Key lab;\n  \
         server {{\n    listen {v4}:80;\n    listen [{v6}]:80;\n    server_name _;\n    root {at}/www;\n  }}\n}}\n"
    )
}

/// What a page says of itself once loaded, for whoever reads it as the browser left it: images that are whole, and those whose
/// response (asked for again, so out of the browser's cache) names a proxy's cache.
const REPORT: &str = "<script>addEventListener('load', () => {
  const images = [...document.images];
  const proxied = image => {
    const again = new XMLHttpRequest();
    again.open('GET', image.src, false);
    again.send();
    return again.getResponseHeader('cache-status') !== null;
  };
  const said = document.documentElement.dataset;
  said.whole = images.filter(image => image.complete && image.naturalWidth > 0).length;
  said.proxied = images.filter(proxied).length;
  said.milliseconds = Math.round(performance.timing.loadEventStart - performance.timing.navigationStart);
})</script>
";
const BMP_HEAD: usize = 54;
const BMP_WIDTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_differ_by_path_and_are_the_same_every_time() {
        assert_eq!(content("/a", Size(1000)), content("/a", Size(1000)));
        assert_ne!(content("/a", Size(1000)), content("/b", Size(1000)));
        assert_eq!(content("/x.bmp", Size(41_000)).len(), 41_000);
        assert!(content("/x.bmp", Size(41_000)).starts_with(b"BM"));
        assert_eq!(content("/x.bmp", Size(3)).len(), 3);
        let page = content_with("/p.html", Size(10), &["/1.bmp"]);
        assert!(String::from_utf8(page).unwrap().contains("<img src=\"/1.bmp\""));
    }
}

//! The text that `nsq dev` prints when both daemons run: their addresses, and commands to try. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;

/// What the banner shows.
pub struct Banner {
    /// The name under which this program was called.
    pub program: String,
    /// nsqlookupd's TCP address, for nsqds.
    pub lookupd_tcp: SocketAddr,
    /// nsqlookupd's HTTP address.
    pub lookupd_http: SocketAddr,
    /// nsqd's TCP address, for clients.
    pub nsqd_tcp: SocketAddr,
    /// nsqd's HTTP address.
    pub nsqd_http: SocketAddr,
    /// Directory of the messages.
    pub data_path: PathBuf,
}

impl Banner {
    /// The banner as text for people, or as one line of JSON.
    pub fn text(&self, as_json: bool) -> String {
        if as_json { self.json() } else { self.plain() }
    }

    fn json(&self) -> String {
        let addresses = json!({
            "lookupd_tcp_address": self.lookupd_tcp,
            "lookupd_http_address": self.lookupd_http,
            "nsqd_tcp_address": self.nsqd_tcp,
            "nsqd_http_address": self.nsqd_http,
            "data_path": self.data_path,
        });
        format!("{addresses}\n")
    }

    fn plain(&self) -> String {
        let Banner { lookupd_tcp, lookupd_http, nsqd_tcp, nsqd_http, .. } = self;
        let data_path = self.data_path.display();
        // On the standard port, the other commands find the nsqlookupd without a flag.
        let nsq = match lookupd_http.port() {
            4161 if lookupd_http.ip().is_loopback() => self.program.clone(),
            _ => format!("{} --lookupd {lookupd_http}", self.program),
        };
        format!(
            "nsqlookupd  TCP {lookupd_tcp}  HTTP {lookupd_http}\n\
             nsqd        TCP {nsqd_tcp}  HTTP {nsqd_http}\n\
             messages    {data_path}\n\
             \n\
             Try it in another terminal:\n\
             \n  {nsq} sub greetings me\n  {nsq} pub greetings 'hello, world'\n  {nsq} stat\n\
             \n\
             or over HTTP:\n\
             \n  curl -d 'hello, curl' 'http://{nsqd_http}/pub?topic=greetings'\n\
             \x20 curl 'http://{lookupd_http}/lookup?topic=greetings'\n\
             \n\
             or with any NSQ client. Ctrl-C stops; messages are kept for the next run.\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(lookupd_http: &str) -> Banner {
        let address = |text: &str| text.parse().unwrap();
        Banner {
            program: "target/debug/nsq".to_owned(),
            lookupd_tcp: address("127.0.0.1:4160"),
            lookupd_http: address(lookupd_http),
            nsqd_tcp: address("127.0.0.1:4150"),
            nsqd_http: address("127.0.0.1:4151"),
            data_path: "/tmp/x".into(),
        }
    }

    #[test]
    fn banner_shows_complete_commands() {
        let text = banner("127.0.0.1:4161").text(false);
        assert!(text.contains("\n  target/debug/nsq sub greetings me\n"), "{text}");
        assert!(
            text.contains("\n  curl -d 'hello, curl' 'http://127.0.0.1:4151/pub?topic=greetings'\n"),
            "{text}"
        );
        let text = banner("127.0.0.1:5000").text(false);
        assert!(text.contains("\n  target/debug/nsq --lookupd 127.0.0.1:5000 stat\n"), "{text}");
    }

    #[test]
    fn json_is_one_line() {
        let text = banner("127.0.0.1:4161").text(true);
        assert_eq!(text.lines().count(), 1);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["nsqd_http_address"], "127.0.0.1:4151");
    }
}

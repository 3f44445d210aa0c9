//! The text that `nsq dev` prints when the daemons run: their addresses, and commands to try. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;

/// What the banner shows. There is at least one of each kind.
pub struct Banner {
    /// The name under which this program was called.
    pub program: String,
    pub lookupds: Vec<LookupdAddresses>,
    pub nsqds: Vec<NsqdAddresses>,
    /// The dashboard's address; `None` if it does not run.
    pub admin: Option<SocketAddr>,
    /// Whether producers and consumers run.
    pub is_demo: bool,
}

/// An nsqlookupd.
pub struct LookupdAddresses {
    /// For nsqds.
    pub tcp: SocketAddr,
    pub http: SocketAddr,
}

/// An nsqd.
pub struct NsqdAddresses {
    /// For clients.
    pub tcp: SocketAddr,
    pub http: SocketAddr,
    /// Directory of the messages.
    pub data_path: PathBuf,
}

impl Banner {
    /// The banner as text for people, or as one line of JSON.
    pub fn text(&self, as_json: bool) -> String {
        if as_json { self.json() } else { self.plain() }
    }

    fn json(&self) -> String {
        let lookupds = self
            .lookupds
            .iter()
            .map(|lookupd| json!({"lookupd_tcp_address": lookupd.tcp, "lookupd_http_address": lookupd.http}));
        let nsqds = self.nsqds.iter().map(|nsqd| {
            json!({"nsqd_tcp_address": nsqd.tcp, "nsqd_http_address": nsqd.http, "data_path": nsqd.data_path})
        });
        let (lookupd, nsqd) = (&self.lookupds[0], &self.nsqds[0]);
        let addresses = json!({
            "lookupd_tcp_address": lookupd.tcp,
            "lookupd_http_address": lookupd.http,
            "nsqd_tcp_address": nsqd.tcp,
            "nsqd_http_address": nsqd.http,
            "admin_http_address": self.admin,
            "data_path": nsqd.data_path,
            "lookupds": lookupds.collect::<Vec<_>>(),
            "nsqds": nsqds.collect::<Vec<_>>(),
        });
        format!("{addresses}\n")
    }

    fn plain(&self) -> String {
        let mut text = String::new();
        for LookupdAddresses { tcp, http } in &self.lookupds {
            text += &format!("nsqlookupd  TCP {tcp}  HTTP {http}\n");
        }
        for NsqdAddresses { tcp, http, data_path } in &self.nsqds {
            text += &format!("nsqd        TCP {tcp}  HTTP {http}\nmessages    {}\n", data_path.display());
        }
        if let Some(admin) = self.admin {
            text += &format!("dashboard   http://{admin}/\n");
        }
        let (lookupd_http, nsqd_http) = (&self.lookupds[0].http, &self.nsqds[0].http);
        // On the standard port, the other commands find the nsqlookupd without a flag.
        let nsq = match lookupd_http.port() {
            4161 if lookupd_http.ip().is_loopback() => self.program.clone(),
            _ => format!("{} --lookupd {lookupd_http}", self.program),
        };
        if self.is_demo {
            return text
                + &format!(
                    "\nProducers and consumers run; some misbehave. Find them from another terminal:\n\
                     \n  {nsq} stat --watch\n  {nsq} doctor\n  {nsq} find --no-consumers\n  {nsq} client ls\n\
                     \nCtrl-C stops all.\n"
                );
        }
        text + &format!(
            "\n\
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
            lookupds: vec![LookupdAddresses { tcp: address("127.0.0.1:4160"), http: address(lookupd_http) }],
            nsqds: vec![NsqdAddresses {
                tcp: address("127.0.0.1:4150"),
                http: address("127.0.0.1:4151"),
                data_path: "/tmp/x".into(),
            }],
            is_demo: false,
            admin: Some(address("127.0.0.1:4171")),
        }
    }

    #[test]
    fn banner_shows_complete_commands() {
        let text = banner("127.0.0.1:4161").text(false);
        assert!(text.contains("\n  target/debug/nsq sub greetings me\n"), "{text}");
        assert!(text.contains("\ndashboard   http://127.0.0.1:4171/\n\nTry it"), "{text}");
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

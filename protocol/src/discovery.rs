//! nsqlookupd's JSON over HTTP: which nodes have what.
//!
//! To be written with [`json::to_json`](crate::json::to_json). Reading is lenient: what is missing or
//! `null` gets its default, and what is unknown is ignored.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::json::lenient;
use crate::stats::Stats;

/// Reads an answer, also one that an old daemon has wrapped as `{"status_code": .., "data": {..}}`.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    #[derive(Deserialize)]
    struct Wrapped<T> {
        data: Option<T>,
    }
    match serde_json::from_slice::<Wrapped<T>>(body)?.data {
        Some(data) => Ok(data),
        None => serde_json::from_slice(body),
    }
}

/// `/lookup`: where a topic is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LookupResponse {
    /// All channels of the topic.
    #[serde(deserialize_with = "lenient")]
    pub channels: Vec<String>,
    /// The nodes that have it and are neither silent nor tombstoned.
    #[serde(deserialize_with = "lenient")]
    pub producers: Vec<Producer>,
}

/// A node, as `/lookup` lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Producer {
    /// The node's end of its connection to nsqlookupd, `ip:port`.
    #[serde(deserialize_with = "lenient")]
    pub remote_address: String,
    /// Its host.
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    /// Address that clients are to use.
    #[serde(deserialize_with = "lenient")]
    pub broadcast_address: String,
    /// Port of its TCP interface.
    #[serde(deserialize_with = "lenient")]
    pub tcp_port: u16,
    /// Port of its HTTP interface.
    #[serde(deserialize_with = "lenient")]
    pub http_port: u16,
    /// Its version.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// Zone that it is in.
    #[serde(deserialize_with = "lenient")]
    pub topology_zone: String,
    /// Region that it is in.
    #[serde(deserialize_with = "lenient")]
    pub topology_region: String,
}

/// `/nodes`: all nodes that are not silent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodesResponse {
    /// The nodes.
    #[serde(deserialize_with = "lenient")]
    pub producers: Vec<Node>,
}

/// A node, as `/nodes` lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// The node's end of its connection to nsqlookupd, `ip:port`.
    #[serde(deserialize_with = "lenient")]
    pub remote_address: String,
    /// Its host.
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    /// Address that clients are to use.
    #[serde(deserialize_with = "lenient")]
    pub broadcast_address: String,
    /// Port of its TCP interface.
    #[serde(deserialize_with = "lenient")]
    pub tcp_port: u16,
    /// Port of its HTTP interface.
    #[serde(deserialize_with = "lenient")]
    pub http_port: u16,
    /// Its version.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// Zone that it is in.
    #[serde(deserialize_with = "lenient")]
    pub topology_zone: String,
    /// Region that it is in.
    #[serde(deserialize_with = "lenient")]
    pub topology_region: String,
    /// For each of `topics`, whether the node is hidden for it. Of the same length, always: NSQ's
    /// nsqadmin crashes if it is shorter.
    #[serde(deserialize_with = "lenient")]
    pub tombstones: Vec<bool>,
    /// The node's topics.
    #[serde(deserialize_with = "lenient")]
    pub topics: Vec<String>,
}

/// `/cluster/stats`: what nodes tell with their heartbeats. Not NSQ's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterStatsResponse {
    /// All nodes.
    #[serde(deserialize_with = "lenient")]
    pub nodes: Vec<ClusterNode>,
}

/// A node with its figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNode {
    /// Who it is.
    #[serde(flatten)]
    pub node: Producer,
    /// How old the figures are. None if there are none.
    pub age_ms: Option<u64>,
    /// Whether they are all there is.
    #[serde(deserialize_with = "lenient")]
    pub is_complete: bool,
    /// The figures, as nsqd's `/stats` shows them, without connections. None of a node that does not tell any.
    pub stats: Option<Stats>,
}

/// `/topics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicsResponse {
    /// All topics.
    #[serde(deserialize_with = "lenient")]
    pub topics: Vec<String>,
}

/// `/channels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelsResponse {
    /// All channels of the topic.
    #[serde(deserialize_with = "lenient")]
    pub channels: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::to_json;

    #[test]
    fn lookup_as_nsqlookupd_writes_it() {
        let json = r#"{"channels":["c5"],"producers":[{"remote_address":"127.0.0.1:36664","hostname":"hh","broadcast_address":"b1","tcp_port":4150,"http_port":4151,"version":"1.3.0","topology_zone":"","topology_region":""}]}"#;
        let lookup: LookupResponse = parse(json.as_bytes()).unwrap();
        assert_eq!(lookup.producers[0].tcp_port, 4150);
        assert_eq!(String::from_utf8(to_json(&lookup).unwrap()).unwrap(), json);
    }

    #[test]
    fn nodes_as_nsqlookupd_writes_them() {
        let json = r#"{"producers":[{"remote_address":"r","hostname":"h","broadcast_address":"b","tcp_port":1,"http_port":2,"version":"1.3.0","topology_zone":"z","topology_region":"r","tombstones":[false],"topics":["t"]}]}"#;
        let nodes: NodesResponse = parse(json.as_bytes()).unwrap();
        assert_eq!(nodes.producers[0].broadcast_address, "b");
        assert_eq!(String::from_utf8(to_json(&nodes).unwrap()).unwrap(), json);
    }

    #[test]
    fn lists_are_written_even_if_empty() {
        assert_eq!(to_json(&LookupResponse::default()).unwrap(), br#"{"channels":[],"producers":[]}"#);
        assert_eq!(to_json(&TopicsResponse::default()).unwrap(), br#"{"topics":[]}"#);
    }

    #[test]
    fn reading_is_lenient() {
        assert_eq!(parse::<TopicsResponse>(b"{}").unwrap(), TopicsResponse::default());
        assert_eq!(parse::<ChannelsResponse>(br#"{"channels":null,"x":1}"#).unwrap().channels.len(), 0);
        let node: NodesResponse =
            parse(br#"{"producers":[{"hostname":null,"tcp_port":5,"topics":null,"x":{}}]}"#).unwrap();
        assert_eq!((node.producers[0].tcp_port, node.producers[0].topics.len()), (5, 0));
        assert!(parse::<TopicsResponse>(b"[").is_err());
    }

    #[test]
    fn old_daemons_wrap_their_answers() {
        let json = br#"{"status_code":200,"status_txt":"OK","data":{"topics":["t"]}}"#;
        assert_eq!(parse::<TopicsResponse>(json).unwrap().topics, ["t"]);
        assert_eq!(parse::<TopicsResponse>(br#"{"data":null,"topics":["t"]}"#).unwrap().topics, ["t"]);
    }
}

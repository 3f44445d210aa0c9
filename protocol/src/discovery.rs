//! nsqlookupd's JSON over HTTP: which nodes have which topics and channels.
//!
//! Write it with [`json::to_json`](crate::json::to_json). Reading is lenient: missing and `null` fields get their
//! default, unknown fields are ignored.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::json::lenient;
use crate::stats::Stats;

/// Parses a response, also one that an old daemon wraps as `{"status_code": .., "data": {..}}`.
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

/// `/lookup`: the channels and nodes of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LookupResponse {
    /// All channels of the topic.
    #[serde(deserialize_with = "lenient")]
    pub channels: Vec<String>,
    /// The nodes that have the topic and are neither silent nor tombstoned.
    #[serde(deserialize_with = "lenient")]
    pub producers: Vec<Producer>,
}

/// A node, as `/lookup` lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Producer {
    /// Remote address of the node's connection to nsqlookupd, `ip:port`.
    #[serde(deserialize_with = "lenient")]
    pub remote_address: String,
    /// Host name of the node.
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    /// Address at which clients reach the node.
    #[serde(deserialize_with = "lenient")]
    pub broadcast_address: String,
    /// TCP port of the node.
    #[serde(deserialize_with = "lenient")]
    pub tcp_port: u16,
    /// HTTP port of the node.
    #[serde(deserialize_with = "lenient")]
    pub http_port: u16,
    /// Version of the node's nsqd.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// Zone of the node.
    #[serde(deserialize_with = "lenient")]
    pub topology_zone: String,
    /// Region of the node.
    #[serde(deserialize_with = "lenient")]
    pub topology_region: String,
    /// Whether the node refuses publishes because it drains. Consumers go on. Left out if not.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
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
    /// Remote address of the node's connection to nsqlookupd, `ip:port`.
    #[serde(deserialize_with = "lenient")]
    pub remote_address: String,
    /// Host name of the node.
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    /// Address at which clients reach the node.
    #[serde(deserialize_with = "lenient")]
    pub broadcast_address: String,
    /// TCP port of the node.
    #[serde(deserialize_with = "lenient")]
    pub tcp_port: u16,
    /// HTTP port of the node.
    #[serde(deserialize_with = "lenient")]
    pub http_port: u16,
    /// Version of the node's nsqd.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// Zone of the node.
    #[serde(deserialize_with = "lenient")]
    pub topology_zone: String,
    /// Region of the node.
    #[serde(deserialize_with = "lenient")]
    pub topology_region: String,
    /// For each of `topics`, whether the node is tombstoned for it. Always as long as `topics`: NSQ's nsqadmin crashes
    /// if it is shorter.
    #[serde(deserialize_with = "lenient")]
    pub tombstones: Vec<bool>,
    /// The node's topics.
    #[serde(deserialize_with = "lenient")]
    pub topics: Vec<String>,
    /// Whether the node refuses publishes because it drains. Consumers go on. Left out if not.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// `/cluster/stats`: the statistics that nodes send with their heartbeats. Not in NSQ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterStatsResponse {
    /// All nodes.
    #[serde(deserialize_with = "lenient")]
    pub nodes: Vec<ClusterNode>,
}

/// A node with its statistics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNode {
    /// The node.
    #[serde(flatten)]
    pub node: Producer,
    /// Age of the statistics, in milliseconds; `None` if there are none.
    pub age_ms: Option<u64>,
    /// Whether the statistics cover the whole node.
    #[serde(deserialize_with = "lenient")]
    pub is_complete: bool,
    /// The statistics as in nsqd's `/stats`, without connections; `None` for a node that sends none.
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
    fn wrapped_responses_of_old_daemons_are_parsed() {
        let json = br#"{"status_code":200,"status_txt":"OK","data":{"topics":["t"]}}"#;
        assert_eq!(parse::<TopicsResponse>(json).unwrap().topics, ["t"]);
        assert_eq!(parse::<TopicsResponse>(br#"{"data":null,"topics":["t"]}"#).unwrap().topics, ["t"]);
    }
}

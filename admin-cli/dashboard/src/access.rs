//! Who a request comes from, and what they may do. Pure.

use std::net::IpAddr;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::network::Network;

/// What a user may do. Each role includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nothing.
    Nobody,
    /// Look.
    Viewer,
    /// Pause, unpause, create.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// The word in files and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Role::Nobody => "nobody",
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

/// The configured users.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The header in which a proxy names the user.
    pub acl_header: String,
    /// Users named by the proxy who may do everything.
    pub admins: Vec<String>,
    /// Users named by the proxy who may pause, unpause and create.
    pub operators: Vec<String>,
    /// Users named by the proxy who may look; if empty, everyone may.
    pub viewers: Vec<String>,
    /// Whether users with passwords or tokens exist.
    pub has_users_file: bool,
    /// Proxies whose headers count.
    pub trusted_proxies: Vec<Network>,
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// The name, if there is one.
    pub user: Option<String>,
    /// Where the name comes from: `header`, `password`, `token` or `none`.
    pub via: &'static str,
    /// What they may do.
    pub role: Role,
    /// Their address; the one that a trusted proxy reports, if there is one.
    pub address: String,
}

impl Rules {
    /// Whether everyone may do everything.
    pub fn are_open(&self) -> bool {
        self.admins.is_empty() && self.operators.is_empty() && self.viewers.is_empty() && !self.has_users_file
    }

    /// The caller. `known` is the user that a password or token has proved.
    pub fn caller(
        &self,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
        known: Option<(String, Role, &'static str)>,
    ) -> Caller {
        let is_trusted = peer.is_none_or(|peer| self.trusted_proxies.iter().any(|n| n.contains(peer)));
        let address = forwarded(headers).filter(|_| is_trusted);
        let address =
            address.or_else(|| peer.map(|peer| peer.to_string())).unwrap_or_else(|| "unix".to_owned());
        if let Some((user, role, via)) = known {
            return Caller { user: Some(user), via, role, address };
        }
        let named = single(headers, &self.acl_header).filter(|_| is_trusted);
        let anonymous = match (self.are_open(), self.viewers.is_empty()) {
            (true, _) => Role::Admin,
            // As in NSQ: everyone may look.
            (false, true) => Role::Viewer,
            (false, false) => Role::Nobody,
        };
        let role = match named {
            Some(user) if self.admins.iter().any(|name| name == user) => Role::Admin,
            Some(user) if self.operators.iter().any(|name| name == user) => Role::Operator,
            Some(user) if self.viewers.iter().any(|name| name == user) => Role::Viewer,
            _ => anonymous,
        };
        Caller {
            user: named.map(str::to_owned),
            via: if named.is_some() { "header" } else { "none" },
            role,
            address,
        }
    }
}

/// A header's value; `None` if it is missing, empty, repeated or no text.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    (values.next().is_none() && !value.is_empty()).then_some(value)
}

/// The address that the nearest proxy reports.
fn forwarded(headers: &HeaderMap) -> Option<String> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?.rsplit(',').next()?;
    let address: IpAddr = last.trim().parse().ok()?;
    Some(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(admins: &[&str], operators: &[&str], viewers: &[&str]) -> Rules {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Rules {
            acl_header: "X-Forwarded-User".to_owned(),
            admins: owned(admins),
            operators: owned(operators),
            viewers: owned(viewers),
            has_users_file: false,
            trusted_proxies: Network::private(),
        }
    }

    fn role(rules: &Rules, peer: &str, user: Option<&str>) -> Role {
        let mut headers = HeaderMap::new();
        if let Some(user) = user {
            headers.insert("x-forwarded-user", user.parse().unwrap());
        }
        rules.caller(Some(peer.parse().unwrap()), &headers, None).role
    }

    #[test]
    fn everyone_is_an_admin_without_users_as_in_nsqadmin() {
        assert_eq!(role(&rules(&[], &[], &[]), "8.8.8.8", None), Role::Admin);
    }

    #[test]
    fn roles_follow_the_header_of_a_trusted_proxy() {
        let rules = rules(&["ann"], &["bob"], &[]);
        assert_eq!(role(&rules, "127.0.0.1", Some("ann")), Role::Admin);
        assert_eq!(role(&rules, "127.0.0.1", Some("bob")), Role::Operator);
        assert_eq!(role(&rules, "127.0.0.1", Some("Ann")), Role::Viewer);
        assert_eq!(role(&rules, "127.0.0.1", None), Role::Viewer);
        assert_eq!(role(&rules, "8.8.8.8", Some("ann")), Role::Viewer, "not a trusted proxy");
    }

    #[test]
    fn viewers_close_the_pages_to_others() {
        let rules = rules(&["ann"], &[], &["eve"]);
        assert_eq!(role(&rules, "127.0.0.1", Some("eve")), Role::Viewer);
        assert_eq!(role(&rules, "127.0.0.1", Some("mallory")), Role::Nobody);
        assert_eq!(role(&rules, "127.0.0.1", None), Role::Nobody);
    }

    #[test]
    fn repeated_header_names_nobody() {
        let rules = rules(&["ann"], &[], &[]);
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-user", "ann".parse().unwrap());
        headers.append("x-forwarded-user", "bob".parse().unwrap());
        let caller = rules.caller(Some([127, 0, 0, 1].into()), &headers, None);
        assert_eq!((caller.role, caller.user), (Role::Viewer, None));
    }

    #[test]
    fn address_is_the_one_that_a_trusted_proxy_reports() {
        let rules = rules(&[], &[], &[]);
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "6.6.6.6, 9.9.9.9".parse().unwrap());
        assert_eq!(rules.caller(Some([10, 0, 0, 1].into()), &headers, None).address, "9.9.9.9");
        assert_eq!(rules.caller(Some([8, 8, 8, 8].into()), &headers, None).address, "8.8.8.8");
    }
}

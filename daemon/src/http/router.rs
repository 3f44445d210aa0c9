//! Maps method and path to a route, with NSQ's responses for near misses.

use std::collections::HashMap;

use http::Method;

/// A table of routes. `R` identifies a route, usually an enum.
///
/// Paths are first looked up in a hash map as they are; only an unknown path is examined further. A path may end in one
/// parameter: `/config/:opt`.
#[derive(Debug, Clone)]
pub struct Router<R> {
    exact: HashMap<&'static str, Vec<Endpoint<R>>>,
    /// Paths up to the parameter, including the slash before it.
    prefixes: HashMap<&'static str, Vec<Endpoint<R>>>,
}

#[derive(Debug, Clone)]
struct Endpoint<R> {
    path: &'static str,
    method: Method,
    route: R,
    logged: bool,
    access: Access,
}

/// What pages of other sites may do with an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// Pages of the origins in [`CorsOrigins`](super::CorsOrigins) may send requests and read the responses.
    pub cors: bool,
    /// A request changes something although its method is safe, so it must not come from a page of an unknown site.
    pub guarded: bool,
}

/// The result of routing a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Routing<'a, R> {
    /// The request matches a route.
    Found {
        /// The path as it was added, including the parameter.
        endpoint: &'static str,
        /// The route that was added.
        route: R,
        /// The last part of a path that ends in a parameter; never empty.
        parameter: Option<&'a str>,
        /// Whether the request is logged.
        logged: bool,
        /// What pages of other sites may do.
        access: Access,
    },
    /// The path is known in another spelling: case or slashes differ.
    Redirect {
        /// The right spelling.
        path: String,
    },
    /// OPTIONS on a known path.
    Options {
        /// The value of the `Allow` header.
        allow: String,
        /// Whether this may be the question of a browser before it sends a request for a page of another site.
        cors: bool,
    },
    /// The path is known, but not for this method.
    MethodNotAllowed {
        /// The value of the `Allow` header.
        allow: String,
    },
    /// The path is unknown.
    NotFound,
}

impl<R: Copy> Router<R> {
    /// An empty table; add endpoints with [`Router::add`].
    pub fn new() -> Self {
        Self { exact: HashMap::new(), prefixes: HashMap::new() }
    }

    /// Adds an endpoint whose requests are logged. `path` may end in a parameter: `/config/:opt`.
    #[must_use]
    pub fn add(self, method: Method, path: &'static str, route: R) -> Self {
        self.insert(method, path, route, true)
    }

    /// Adds an endpoint whose requests are not logged.
    #[must_use]
    pub fn add_unlogged(self, method: Method, path: &'static str, route: R) -> Self {
        self.insert(method, path, route, false)
    }

    /// Allows pages of other origins to use these paths, as [`Access::cors`] says.
    #[must_use]
    pub fn with_cors(self, paths: &[&'static str]) -> Self {
        self.change_access(paths, |access| access.cors = true)
    }

    /// Protects these paths, as [`Access::guarded`] says.
    #[must_use]
    pub fn guarded(self, paths: &[&'static str]) -> Self {
        self.change_access(paths, |access| access.guarded = true)
    }

    fn change_access(mut self, paths: &[&'static str], change: impl Fn(&mut Access)) -> Self {
        for path in paths {
            let endpoints = self.exact.get_mut(path);
            debug_assert!(endpoints.is_some(), "{path} was added before");
            endpoints.into_iter().flatten().for_each(|endpoint| change(&mut endpoint.access));
        }
        self
    }

    fn insert(mut self, method: Method, path: &'static str, route: R, logged: bool) -> Self {
        let endpoints = match path.split_once(':') {
            Some((prefix, _)) => self.prefixes.entry(prefix),
            None => self.exact.entry(path),
        };
        endpoints.or_default().push(Endpoint { path, method, route, logged, access: Access::default() });
        self
    }

    /// Routes a request by its method and decoded path.
    pub fn route<'p>(&self, method: &Method, path: &'p str) -> Routing<'p, R> {
        let (endpoints, parameter) = self.endpoints(path);
        if let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.method == *method) {
            let &Endpoint { path: endpoint, route, logged, access, .. } = endpoint;
            return Routing::Found { endpoint, route, parameter, logged, access };
        }
        if let Some(path) = self.corrected_path(method, path) {
            return Routing::Redirect { path };
        }
        match (endpoints.is_empty(), method == Method::OPTIONS) {
            (true, _) => Routing::NotFound,
            (false, true) => Routing::Options {
                allow: allow(endpoints),
                cors: endpoints.iter().any(|endpoint| endpoint.access.cors),
            },
            (false, false) => Routing::MethodNotAllowed { allow: allow(endpoints) },
        }
    }

    fn endpoints<'p>(&self, path: &'p str) -> (&[Endpoint<R>], Option<&'p str>) {
        if let Some(endpoints) = self.exact.get(path) {
            return (endpoints, None);
        }
        let (prefix, parameter) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        match self.prefixes.get(prefix) {
            Some(endpoints) if !parameter.is_empty() => (endpoints, Some(parameter)),
            _ => (&[], None),
        }
    }

    /// The path with this method that was probably meant.
    fn corrected_path(&self, method: &Method, path: &str) -> Option<String> {
        let clean = clean(path);
        let bare = clean.strip_suffix('/').unwrap_or(&clean);
        let serves = |endpoints: &[Endpoint<R>]| endpoints.iter().any(|endpoint| endpoint.method == *method);
        let exact = self.exact.iter().find(|(known, endpoints)| {
            serves(endpoints) && known.strip_suffix('/').unwrap_or(known).eq_ignore_ascii_case(bare)
        });
        if let Some((known, _)) = exact {
            return Some((*known).to_owned());
        }
        let (prefix, parameter) = bare.split_at(bare.rfind('/').map_or(0, |slash| slash + 1));
        let known = self.prefixes.iter().find(|(known, endpoints)| {
            serves(endpoints) && known.eq_ignore_ascii_case(prefix) && !parameter.is_empty()
        });
        known.map(|(known, _)| format!("{known}{parameter}"))
    }
}

impl<R: Copy> Default for Router<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// Resolves `.`, `..` and repeated slashes; keeps a slash at the end.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let slash = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{slash}", parts.join("/"))
}

fn allow<R>(endpoints: &[Endpoint<R>]) -> String {
    let mut methods: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.method.as_str()).collect();
    methods.push("OPTIONS");
    methods.sort_unstable();
    methods.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn router() -> Router<u8> {
        Router::new()
            .add(Method::GET, "/ping", 1)
            .add_unlogged(Method::POST, "/pub", 2)
            .add(Method::GET, "/config/:opt", 3)
            .add(Method::PUT, "/config/:opt", 4)
            .add(Method::GET, "/debug/pprof/", 5)
    }

    fn redirect<'a>(path: &str) -> Routing<'a, u8> {
        Routing::Redirect { path: path.to_owned() }
    }

    #[test]
    fn known_paths_are_found() {
        let router = router();
        let found = |endpoint, route, parameter, logged| {
            let access = Access::default();
            Routing::Found { endpoint, route, parameter, logged, access }
        };
        assert_eq!(router.route(&Method::GET, "/ping"), found("/ping", 1, None, true));
        assert_eq!(router.route(&Method::POST, "/pub"), found("/pub", 2, None, false));
        let config = found("/config/:opt", 4, Some("log_level"), true);
        assert_eq!(router.route(&Method::PUT, "/config/log_level"), config);
    }

    #[test]
    fn unknown_paths_are_not_found() {
        for path in ["/", "", "*", "/config", "/config/", "/config/a/b", "/nope", "/pingx", "/pin"] {
            assert_eq!(router().route(&Method::GET, path), Routing::NotFound, "{path}");
        }
        assert_eq!(router().route(&Method::OPTIONS, "/nope"), Routing::NotFound);
    }

    #[test]
    fn other_spelling_is_redirected_for_its_method_only() {
        let router = router();
        for path in ["/ping/", "/PING", "//ping", "/x/../Ping//", "/./ping"] {
            assert_eq!(router.route(&Method::GET, path), redirect("/ping"), "{path}");
            assert_eq!(router.route(&Method::POST, path), Routing::NotFound, "{path}");
        }
        assert_eq!(router.route(&Method::POST, "/PUB"), redirect("/pub"));
        assert_eq!(router.route(&Method::GET, "/debug/pprof"), redirect("/debug/pprof/"));
        assert_eq!(router.route(&Method::GET, "/CONFIG/Opt/"), redirect("/config/Opt"));
    }

    #[test]
    fn wrong_method_gets_the_allowed_methods() {
        let router = router();
        let not_allowed = |allow: &str| Routing::MethodNotAllowed { allow: allow.to_owned() };
        assert_eq!(router.route(&Method::HEAD, "/ping"), not_allowed("GET, OPTIONS"));
        assert_eq!(router.route(&Method::GET, "/pub"), not_allowed("OPTIONS, POST"));
        assert_eq!(router.route(&Method::POST, "/config/x"), not_allowed("GET, OPTIONS, PUT"));
        let options = Routing::Options { allow: "GET, OPTIONS".to_owned(), cors: false };
        assert_eq!(router.route(&Method::OPTIONS, "/ping"), options);
    }

    #[test]
    fn access_belongs_to_the_path() {
        let router = router().with_cors(&["/pub"]).guarded(&["/ping"]);
        let access = |method, path| match router.route(&method, path) {
            Routing::Found { access, .. } => access,
            other => panic!("{other:?}"),
        };
        assert_eq!(access(Method::POST, "/pub"), Access { cors: true, guarded: false });
        assert_eq!(access(Method::GET, "/ping"), Access { cors: false, guarded: true });
        assert!(matches!(router.route(&Method::OPTIONS, "/pub"), Routing::Options { cors: true, .. }));
        assert!(matches!(router.route(&Method::OPTIONS, "/ping"), Routing::Options { cors: false, .. }));
    }

    proptest! {
        #[test]
        fn redirect_leads_to_a_route(path in "[/.a-zA-Z%:]{0,24}|/+[pP][iI]ng/*|(//)?config/[a-z./]{1,8}") {
            let router = router();
            if let Routing::Redirect { path } = router.route(&Method::GET, &path) {
                let found = matches!(router.route(&Method::GET, &path), Routing::Found { .. });
                prop_assert!(found, "{}", path);
            }
        }
    }
}

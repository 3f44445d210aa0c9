//! What stands in for `compression`, `tls` and `https` in a build without their features.
//!
//! [`Config::validate`](crate::Config::validate) refuses the options, and `http::base_url` refuses `https`. So nothing gets
//! here, and what can be called fails.

#[cfg(not(any(feature = "deflate", feature = "snappy")))]
pub(crate) mod compression {
    use std::io;

    use bytes::BytesMut;

    use crate::error::Disconnect;
    use crate::handshake::Upgrade;

    pub(crate) enum Compression {}

    pub(crate) enum Decompression {}

    pub(crate) fn start(_: Upgrade, _: BytesMut) -> Result<(Compression, Decompression), Disconnect> {
        Err(Disconnect::Protocol("this program has no compression".into()))
    }

    impl Compression {
        pub(crate) fn compress(&mut self, _: &[u8]) -> &[u8] {
            match *self {}
        }
    }

    impl Decompression {
        pub(crate) fn room(&mut self) -> &mut BytesMut {
            match *self {}
        }

        pub(crate) fn decompress(&mut self, _: &mut BytesMut) -> io::Result<usize> {
            match *self {}
        }
    }
}

#[cfg(not(feature = "tls"))]
pub(crate) mod tls {
    use crate::config::Config;
    use crate::error::ConfigError;

    /// Accepts no connection.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Tls {}

    impl Tls {
        pub(crate) fn new(_: &Config) -> Result<Self, ConfigError> {
            Err(ConfigError::FeatureOff { what: "TLS", feature: "tls" })
        }
    }
}

#[cfg(not(feature = "tls"))]
pub(crate) mod https {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::body::Incoming;

    use super::tls::Tls;
    use crate::http::HttpError;

    #[derive(Clone, Debug)]
    pub(crate) struct Https;

    impl Https {
        pub(crate) fn new(_: Duration, _: Tls) -> Self {
            Https
        }

        #[cfg(feature = "admin")]
        pub(crate) fn tls(&self) -> &Tls {
            &Tls {}
        }

        pub(crate) async fn request(&self, _: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
            Err(HttpError::Connect(
                "this program was built without TLS: see the feature `tls` of nsq-rs".into(),
            ))
        }
    }
}

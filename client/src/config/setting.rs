//! The argument types of the setters of [`Config`](super::Config).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nsq_protocol::StartAt;

use super::{BackoffStrategy, Interval, Secret, TlsVersion};

/// A value for an option of type `T`. An optional one takes both `value` and `Some(value)`, and a text or path takes `&str`.
///
/// This trait is sealed: an option may take more types later.
pub trait Setting<T>: sealed::Sealed<T> {
    /// Converts to the type of the option.
    fn into_setting(self) -> T;
}

mod sealed {
    pub trait Sealed<T> {}
}

macro_rules! settings {
    ($($target:ty: $($source:ty),+;)*) => {
        $(
            impl sealed::Sealed<Option<$target>> for Option<$target> {}

            impl Setting<Option<$target>> for Option<$target> {
                fn into_setting(self) -> Option<$target> {
                    self
                }
            }
            $(
                impl sealed::Sealed<$target> for $source {}

                impl sealed::Sealed<Option<$target>> for $source {}

                impl Setting<$target> for $source {
                    fn into_setting(self) -> $target {
                        self.into()
                    }
                }
                impl Setting<Option<$target>> for $source {
                    fn into_setting(self) -> Option<$target> {
                        Some(self.into())
                    }
                }
            )+
        )*
    };
}

settings! {
    bool: bool;
    u8: u8;
    u16: u16;
    u32: u32;
    i64: i64;
    f64: f64;
    Duration: Duration;
    Interval: Interval, Duration;
    String: String, &str, &String, Cow<'_, str>, Box<str>;
    PathBuf: PathBuf, &Path, &PathBuf, &str, String;
    Secret: Secret, &str, String;
    IpAddr: IpAddr, Ipv4Addr, Ipv6Addr;
    StartAt: StartAt;
    BackoffStrategy: BackoffStrategy;
    TlsVersion: TlsVersion;
}

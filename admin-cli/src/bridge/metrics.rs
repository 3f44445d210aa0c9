//! `/metrics` and `/ping` of a bridge. `docs/TOOLS.md` lists every metric.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nsq::{Consumer, ConsumerStats};
use nsq_daemon::http::{self, HttpError, Method, Request, Response, Router, Server, Service};
use nsq_daemon::info;
use nsq_daemon::listen::{Listener, parse_address};
use nsq_daemon::log::{Logger, dropped_lines};
use nsq_daemon::metrics::{Exposition, Kind, process};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Work;
use crate::exit_status::Failure;

/// The consumers of a bridge, one per topic.
#[derive(Debug, Default)]
pub struct Metrics {
    consumers: Mutex<Vec<(String, Consumer)>>,
}

impl Metrics {
    /// Adds the consumer of a topic.
    pub fn add(&self, topic: &str, consumer: Consumer) {
        self.consumers.lock().push((topic.to_owned(), consumer));
    }

    fn expose(&self, page: &mut Exposition) {
        let consumers = self.consumers.lock();
        let stats: Vec<(&str, ConsumerStats)> =
            consumers.iter().map(|(topic, consumer)| (&**topic, consumer.stats())).collect();
        let mut family = |name: &str, kind, help: &str, value: fn(&ConsumerStats) -> u64| {
            let mut family = page.family(name, kind, help);
            for (topic, stats) in &stats {
                family.sample(&[("topic", topic)], value(stats) as f64);
            }
        };
        let counter = Kind::Counter;
        family("nsq_bridge_connections", Kind::Gauge, "Connections to nsqds.", |s| s.connections);
        family("nsq_bridge_in_flight", Kind::Gauge, "Messages received and not answered.", |s| s.in_flight);
        family("nsq_bridge_received_total", counter, "Messages received.", |s| s.received);
        let help = "Messages finished, those dropped after max_attempts included.";
        family("nsq_bridge_finished_total", counter, help, |s| s.finished);
        family("nsq_bridge_requeued_total", counter, "Messages requeued.", |s| s.requeued);
        family("nsq_bridge_rejected_total", counter, "Messages made dead letters.", |s| s.rejected);
        family("nsq_bridge_dropped_total", counter, "Messages dropped after max_attempts.", |s| s.gave_up);
    }
}

/// The HTTP server of a bridge.
#[derive(Debug)]
pub struct MetricsServer {
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl MetricsServer {
    /// Listens on `address` and serves until [`stop`](MetricsServer::stop).
    pub async fn start<W: Work>(
        address: &str,
        metrics: &Arc<Metrics>,
        work: &Arc<W>,
        logger: &Logger,
    ) -> Result<Self, Failure> {
        let listener = Listener::bind(&parse_address(address)).await.map_err(|error| {
            Failure::failed(format_args!("cannot listen on --metrics-address {address}: {error}"))
        })?;
        if let Some(address) = listener.local_addr() {
            info!(logger, "HTTP: listening on {address}");
        }
        let started_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let routes = Router::new().add_unlogged(Method::GET, "/metrics", Route::Metrics).add_unlogged(
            Method::GET,
            "/ping",
            Route::Ping,
        );
        let page = Page {
            routes,
            metrics: Arc::clone(metrics),
            work: Arc::clone(work),
            started_at: started_at.as_secs_f64(),
        };
        let server = Server::new(page, logger.clone());
        let stop = CancellationToken::new();
        let token = stop.clone();
        let serving = tokio::spawn(async move { server.serve(listener, token).await });
        Ok(MetricsServer { stop, serving })
    }

    pub async fn stop(self) {
        self.stop.cancel();
        // A server that has failed needs no stop.
        let _ = self.serving.await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Route {
    Metrics,
    Ping,
}

struct Page<W> {
    routes: Router<Route>,
    metrics: Arc<Metrics>,
    work: Arc<W>,
    started_at: f64,
}

impl<W> fmt::Debug for Page<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").finish_non_exhaustive()
    }
}

impl<W: Work> Service for Page<W> {
    type Route = Route;

    fn router(&self) -> &Router<Route> {
        &self.routes
    }

    async fn call(&self, route: Route, _request: Request) -> Result<Response, HttpError> {
        match route {
            Route::Ping => Ok(http::response::text("OK")),
            Route::Metrics => {
                let mut page = Exposition::default();
                let help = "1, with the version.";
                page.family("nsq_bridge_build_info", Kind::Gauge, help)
                    .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
                let help = "Start time of the bridge, in seconds since 1970.";
                page.gauge("nsq_bridge_start_time_seconds", help, self.started_at);
                self.metrics.expose(&mut page);
                self.work.expose(&mut page);
                let help = "Log lines dropped because stderr was not read or could not be written.";
                page.counter("nsq_bridge_log_lines_dropped_total", help, dropped_lines());
                process::expose(&mut page);
                Ok(page.into_response())
            }
        }
    }
}

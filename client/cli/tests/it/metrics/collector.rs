//! A collector that receives metrics over OTLP, and records each sender's metric names.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    common::v1::any_value::Value,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Cheap to clone; all clones share the same records.
#[derive(Clone, Default)]
pub(crate) struct MetricsCollector(Arc<Mutex<BTreeSet<(String, String)>>>);

impl MetricsCollector {
    /// Starts a collector that listens as long as the test's runtime exists.
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector = Self::default();
        let server =
            tonic::transport::Server::builder().add_service(MetricsServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    /// Whether a service of this name has sent a metric of this name.
    pub(crate) fn has(&self, service: &str, metric: &str) -> bool {
        let seen = self.0.lock().unwrap();
        seen.contains(&(service.to_owned(), metric.to_owned()))
    }
}

#[tonic::async_trait]
impl MetricsService for MetricsCollector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut seen = self.0.lock().unwrap();
        for of_resource in request.into_inner().resource_metrics {
            let attributes = of_resource.resource.unwrap_or_default().attributes;
            let service = attributes
                .into_iter()
                .find(|attribute| attribute.key == "service.name")
                .and_then(|attribute| attribute.value?.value);
            let Some(Value::StringValue(service)) = service else {
                return Err(Status::invalid_argument("who sends it?"));
            };
            let metrics = of_resource
                .scope_metrics
                .into_iter()
                .flat_map(|scope| scope.metrics);
            seen.extend(metrics.map(|metric| (service.clone(), metric.name)));
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

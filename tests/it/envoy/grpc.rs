//! gRPC through Envoy, as real clients see it.

use std::time::Duration;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::wire::channel;

/// Calls a method that takes and gives a text, with one header.
pub(crate) async fn call(
    port: u16,
    path: &'static str,
    header: Option<(&'static str, &str)>,
) -> Result<Response<String>, Status> {
    let mut client = Grpc::new(channel(&format!("127.0.0.1:{port}")).await);
    client.ready().await.expect("connected");
    let mut request = Request::new("hello".to_owned());
    request.set_timeout(Duration::from_secs(60));
    if let Some((name, value)) = header {
        let value = value.parse().expect("ascii");
        request.metadata_mut().insert(name, value);
    }
    let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::default());
    client.unary(request, path, codec).await
}

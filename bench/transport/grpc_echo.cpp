// gRPC, one bidirectional stream, synchronous API: its fastest common use.
#include <grpcpp/grpcpp.h>

#include "bench/transport/echo.hpp"
#include "echo.grpc.pb.h"

namespace fulgur::bench {
namespace {

constexpr int kLargestMessage = 64 << 20;

class Service final : public Echo::Service {
  grpc::Status Stream(grpc::ServerContext*,
                      grpc::ServerReaderWriter<Payload, Payload>* stream) override {
    Payload payload;
    while (stream->Read(&payload)) {
      const Mode mode{payload.mode()};
      if (mode == Mode::sink) continue;
      if (mode == Mode::last) payload.mutable_data()->resize(8);
      stream->Write(payload);
    }
    return grpc::Status::OK;
  }
};

class Client final : public EchoClient {
 public:
  explicit Client(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kLargestMessage);
    stub_ = Echo::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    stream_ = stub_->Stream(&context_);
  }

  void round_trip(std::size_t bytes) override {
    write(bytes, Mode::echo);
    FULGUR_ASSERT(stream_->Read(&answer_), "the gRPC stream broke");
  }
  void one_way(std::size_t bytes, std::size_t count) override {
    for (std::size_t i = 1; i <= count; ++i) write(bytes, i < count ? Mode::sink : Mode::last);
    FULGUR_ASSERT(stream_->Read(&answer_), "the gRPC stream broke");
  }

 private:
  void write(std::size_t bytes, Mode mode) {
    payload_.set_mode(static_cast<std::uint32_t>(mode));
    if (payload_.data().size() != bytes) payload_.mutable_data()->assign(bytes, 'x');
    FULGUR_ASSERT(stream_->Write(payload_), "the gRPC stream broke");
  }

  grpc::ClientContext context_;
  std::unique_ptr<Echo::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<Payload, Payload>> stream_;
  Payload payload_;
  Payload answer_;
};

void serve(const std::string& listen, const std::function<void(const std::string&)>& ready) {
  Service service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(kLargestMessage);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  FULGUR_ASSERT(server != nullptr, "gRPC cannot listen on " + listen);
  ready(listen.starts_with("unix:") ? listen : "127.0.0.1:" + std::to_string(port));
  server->Wait();
}

}  // namespace

Contestant grpc_contestant(const std::string& name, const std::string& listen) {
  Contestant contestant;
  contestant.name = name;
  contestant.serve = [listen](const auto& ready) { serve(listen, ready); };
  contestant.connect = [](const std::string& address) { return std::make_unique<Client>(address); };
  return contestant;
}

}  // namespace fulgur::bench

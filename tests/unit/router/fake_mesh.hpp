// The mesh around a router under test, in one process: an orchestrator and shards that do what the
// test says, over the in-process transport. The router's reactor runs on a thread of its own; the
// fakes are polled by the test, which waits on doorbells, never on time.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/transport/inproc.hpp"
#include "common/wire/codec.hpp"
#include "services/router/service.hpp"
#include "tests/unit/http/raw_client.hpp"

namespace fulgur::router::testing {

/// A peer that keeps what it hears.
class FakePeer : private transport::Handler {
 public:
  FakePeer(transport::Hub& hub, wire::ServiceKind kind, const std::string& name,
           std::uint64_t incarnation);

  void send(wire::Body body);
  void poll() { transport_->poll(*this, 256); }
  transport::Doorbell& doorbell() { return transport_->doorbell(); }
  const std::string& name() const { return name_; }
  bool connected() const { return link_ != 0; }

  /// Whose work each Submit of heard() is.
  const std::vector<TraceContext>& traces() const { return traces_; }

  template <class Body>
  std::vector<Body>& heard() {
    return std::get<std::vector<Body>>(heard_);
  }

 private:
  void on_link_up(transport::LinkId link, const transport::Peer& peer) override;
  void on_link_down(transport::LinkId link, const Status& why) override;
  void on_message(transport::LinkId link, wire::Frames frames) override;

  template <class Body>
  static constexpr bool kKept =
      std::is_same_v<Body, wire::Submit> || std::is_same_v<Body, wire::Cancel> ||
      std::is_same_v<Body, wire::Register> || std::is_same_v<Body, wire::Heartbeat>;

  std::string name_;
  std::unique_ptr<transport::Transport> transport_;
  transport::LinkId link_ = 0;
  std::tuple<std::vector<wire::Submit>, std::vector<wire::Cancel>, std::vector<wire::Register>,
             std::vector<wire::Heartbeat>> heard_;
  std::vector<TraceContext> traces_;
};

class FakeMesh {
 public:
  explicit FakeMesh(ServiceOptions options = {}, std::vector<std::string> shards = {"shard-0"});
  ~FakeMesh();

  /// Polls the fakes until `condition` holds; fails the test after 20 s.
  void wait_until(const std::function<bool()>& condition);
  void start_shard(const std::string& name);
  void kill_shard(const std::string& name) { shards_.erase(name); }
  /// Sends the router a placement that names these shards, and waits for its links to them.
  void publish(const std::vector<std::string>& names);
  /// Waits for the `index`-th sequence that `shard` was ever given (from 0).
  wire::Submit submitted(const std::string& shard, std::size_t index = 0);
  void wait_for_cancel(const std::string& shard, std::uint64_t request);

  /// The tokens every shard generates: position p of any sequence gets script()[p].
  const std::vector<std::uint32_t>& script() const { return script_; }
  void set_script(std::vector<std::uint32_t> script) { script_ = std::move(script); }
  std::string script_text(std::size_t count) const;
  /// Sends the next `count` tokens of a sequence, each in a message of its own.
  void generate(const std::string& shard, const wire::Submit& submit, std::size_t first,
                std::size_t count);
  void finish(const std::string& shard, std::uint64_t request, wire::FinishReason reason,
              Code code = Code::ok, const std::string& message = "");

  FakePeer& shard(const std::string& name) { return *shards_.at(name); }
  FakePeer& orchestrator() { return *orchestrator_; }
  Service& service() { return *service_; }
  const ServedModel& model() const { return *model_; }

 private:
  transport::Hub hub_;
  RealClock clock_;
  std::shared_ptr<const ServedModel> model_;
  std::unique_ptr<FakePeer> orchestrator_;
  std::map<std::string, std::unique_ptr<FakePeer>> shards_;
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<Service> service_;
  std::thread reactor_;
  std::vector<std::uint32_t> script_;
  std::uint64_t epoch_ = 0;
  std::uint64_t incarnations_ = 0;
};

/// One request on a connection of its own.
class Call {
 public:
  Call(FakeMesh& mesh, std::string_view path, std::string_view body,
       std::string_view headers = "");
  /// Waits for the whole unstreamed answer.
  int status();
  nlohmann::json json();
  std::string head();
  /// Waits for the next server-sent event and gives its data.
  std::string next_event();
  /// Data of all events up to and including [DONE].
  std::vector<std::string> events();
  void hang_up() { client_.close(); }

 private:
  void receive();
  http::testing::RawClient client_;
  std::string response_;
};

}  // namespace fulgur::router::testing

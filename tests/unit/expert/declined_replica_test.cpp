// A worker whose GPU has no room for a replica that the orchestrator wants it to have: it declines,
// the mesh is planned without it and serves, nobody asks in a tight loop, and it is asked again.
#include <gtest/gtest.h>

#include "bench/mesh/local_mesh.hpp"
#include "kernels/cuda/emulation/emulated_backend.hpp"
#include "kernels/cuda/emulation/emulation.hpp"
#include "services/orchestrator/orchestrator_actor.hpp"
#include "tests/unit/attention/exact_requests.hpp"

namespace fulgur {
namespace {

namespace emulation = kernels::emulation;
using wire::ServiceKind;

constexpr const char* kOrchestrator = "inproc://orchestrator";

/// Loads one replica at a time, when the test says so.
class SteppedSource final : public expert::ReplicaSource {
 public:
  SteppedSource(const model::Checkpoint& checkpoint, kernels::Backend& packer, OnLoaded on_loaded)
      : checkpoint_(checkpoint), packer_(packer), on_loaded_(std::move(on_loaded)) {}

  void load(std::vector<expert::ReplicaId> ids, std::size_t) override {
    waiting_.assign(ids.rbegin(), ids.rend());
  }
  void step() {
    if (waiting_.empty()) return;
    const expert::ReplicaId id = waiting_.back();
    waiting_.pop_back();
    on_loaded_(id, expert::load_expert(checkpoint_, id, packer_));
  }

 private:
  const model::Checkpoint& checkpoint_;
  kernels::Backend& packer_;
  OnLoaded on_loaded_;
  std::vector<expert::ReplicaId> waiting_;  ///< in reverse
};

/// Members call their orchestrator over the network's carrier: here everything is in-process.
class InprocOnly final : public transport::Transport {
 public:
  explicit InprocOnly(std::unique_ptr<transport::Transport> inner) : inner_(std::move(inner)) {}
  std::string endpoint() const override { return inner_->endpoint(); }
  Result<transport::LinkId> connect(const std::string& endpoint, transport::Carrier) override {
    return inner_->connect(endpoint, transport::Carrier::inproc);
  }
  Status send(transport::LinkId link, wire::Frames frames) override {
    return inner_->send(link, std::move(frames));
  }
  void close(transport::LinkId link) override { inner_->close(link); }
  std::size_t poll(transport::Handler& handler, std::size_t max_events) override {
    return inner_->poll(handler, max_events);
  }
  transport::Doorbell& doorbell() override { return inner_->doorbell(); }
  transport::Stats stats() const override { return inner_->stats(); }

 private:
  const std::unique_ptr<transport::Transport> inner_;
};

/// One process. Destroyed bottom-up, actors before what they use.
struct Process {
  std::unique_ptr<transport::Transport> transport;
  std::unique_ptr<attention::Shard> shard;
  std::unique_ptr<expert::Worker> worker;
  SteppedSource* source = nullptr;
  std::unique_ptr<actor::Reactor> reactor;
};

/// A router's side of one request.
class Client {
 public:
  Client(actor::Self&, mesh::Generation* generation) : generation_(*generation) {}
  caf::behavior make_behavior() {
    return {[this](const actor::Received<wire::Tokens>& received) {
              for (const auto& event : received.body.events) {
                if (event.prompt) generation_.prompt.push_back(event);
                if (event.prompt) continue;
                generation_.tokens.push_back(event.token);
                generation_.logprobs.push_back(event.logprob);
                generation_.top.push_back(event.top);
              }
            },
            [this](const actor::Received<wire::Done>& received) {
              generation_.end = received.body;
              generation_.done = true;
            }};
  }

 private:
  mesh::Generation& generation_;
};

class DeclinedReplica : public testing::Test {
 protected:
  void TearDown() override { emulation::machine() = {}; }

  DeclinedReplica() {
    start_orchestrator();
    start_worker("roomy", backend(Dtype::bf16), backend(Dtype::bf16));
    // So little that every piece is asked of the driver, and then only a few replicas' worth.
    emulation::machine().memory = std::size_t{48} << 20;
    for (auto* made : {&device_, &packer_}) {
      *made = kernels::make_emulated_cuda_backend({.shape = {}}).value();
    }
    start_worker("tight", *device_, *packer_);
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    emulation::machine().memory = total - free + (std::size_t{256} << 10);
    start_shard();
  }

  Process& add(ServiceKind kind, const std::string& name) {
    Process& process = processes_[name];
    process.transport =
        std::make_unique<InprocOnly>(hub_.make({kind, name, 1}, "inproc://" + name).value());
    process.reactor = std::make_unique<actor::Reactor>(*process.transport, clock_);
    return process;
  }

  static wire::Register registration(ServiceKind kind, const std::string& name) {
    wire::Register info;
    info.kind = kind;
    info.name = name;
    info.incarnation = 1;
    info.pid = 1;
    info.endpoint = "inproc://" + name;
    info.model_fingerprint = tiny()->fingerprint();
    info.numerics = "cpu-bf16";  // the portable kernels' bits are the CPU's
    return info;
  }

  void start_orchestrator() {
    Process& process = add(ServiceKind::orchestrator, "orchestrator");
    orchestrator::OrchestratorDeps deps;
    deps.options.epochs.shape = {tiny()->config().layers, tiny()->config().experts};
    deps.options.epochs.replicas = 1;
    deps.options.fingerprint = tiny()->fingerprint();
    deps.options.generation = 1;
    deps.options.expect_experts = 2;
    deps.options.expect_attention = 1;
    deps.self = {"orchestrator", 1, kOrchestrator, "127.0.0.1:1"};
    deps.on_serving = [this](const Status& serving) { serving_ = serving; };
    orchestrator_ = orchestrator::start_orchestrator(*process.reactor, std::move(deps));
  }

  void start_worker(const std::string& name, kernels::Backend& compute, kernels::Backend& packer) {
    Process& process = add(ServiceKind::expert, name);
    expert::WorkerOptions options;
    options.registration = registration(ServiceKind::expert, name);
    options.orchestrator = kOrchestrator;
    options.limits.batch_rows_max = 256;
    options.make_source = [&](expert::ReplicaSource::OnLoaded loaded) {
      auto source = std::make_unique<SteppedSource>(*tiny(), packer, std::move(loaded));
      process.source = source.get();
      return source;
    };
    options.on_left = [] {};
    options.on_fatal = [](const std::string& why) { ADD_FAILURE() << why; };
    process.worker =
        expert::start_worker(*process.reactor, tiny(), compute, nullptr, std::move(options))
            .value();
  }

  void start_shard() {
    Process& process = add(ServiceKind::attention, "shard");
    attention::ShardOptions options;
    options.registration = registration(ServiceKind::attention, "shard");
    options.orchestrator = kOrchestrator;
    options.expert_carrier = transport::Carrier::inproc;
    options.scheduler = plain(Dtype::bf16).scheduler;
    options.on_left = [] {};
    options.on_fatal = [](const std::string& why) { ADD_FAILURE() << why; };
    process.shard =
        attention::start_shard(*process.reactor, *tiny(), backend(Dtype::bf16), std::move(options))
            .value();
  }

  void run_for(Nanoseconds time) {
    for (const Nanoseconds end = clock_.now() + time; clock_.now() < end;) step();
  }

  void step() {
    clock_.advance(kMillisecond);
    for (auto& [name, process] : processes_) {
      process.reactor->run_once();
      if (process.source != nullptr) process.source->step();
    }
  }

  mesh::Generation generate(wire::Submit submit) {
    mesh::Generation generation;
    Process& client = add(ServiceKind::router, "client");
    const auto actor = client.reactor->spawn<Client>(&generation);
    client.reactor->subscribe<wire::Tokens>(actor);
    client.reactor->subscribe<wire::Done>(actor);
    const auto link =
        client.transport->connect("inproc://shard", transport::Carrier::inproc).value();
    for (int pass = 0; pass < 10; ++pass) step();
    wire::Message message;
    message.sender = "client";
    submit.request = 1;
    message.body = std::move(submit);
    EXPECT_TRUE(client.transport->send(link, wire::encode(message)).is_ok());
    for (int pass = 0; pass < 100'000 && !generation.done; ++pass) step();
    client.reactor.reset();
    processes_.erase("client");
    return generation;
  }

  std::string events() {
    std::string events;
    actor::tell(orchestrator_, orchestrator::EventsQuery{
                                   {}, [&events](std::string json) { events = std::move(json); }});
    run_for(10 * kMillisecond);
    return events;
  }

  const expert::NodeLoad& load(const std::string& name) { return processes_.at(name).worker->load; }
  std::size_t held(const std::string& name) {
    return processes_.at(name).worker->store->held().size();
  }

  ManualClock clock_;
  transport::Hub hub_;
  std::unique_ptr<kernels::Backend> device_;
  std::unique_ptr<kernels::Backend> packer_;
  std::map<std::string, Process> processes_;
  actor::Handle orchestrator_;
  Status serving_{Code::unavailable, "nothing heard yet"};
};

TEST_F(DeclinedReplica, TheMeshServesWithoutItAndAsksAgain) {
  const std::size_t replicas = std::size_t{tiny()->config().layers} * tiny()->config().experts;
  run_for(1500 * kMillisecond);
  EXPECT_TRUE(serving_.is_ok()) << serving_.message();
  EXPECT_EQ(load("tight").load_failures_total, 1U);
  EXPECT_EQ(held("tight"), 0U) << "what it had loaded is free again";
  EXPECT_EQ(held("roomy"), replicas);
  EXPECT_NE(events().find("does not fit: cuda: GPU 0 has no memory for"), std::string::npos);
  expect_same(generate(requests()[0]), yardstick(Dtype::bf16)[0], 0);
  // Trusted again after 2, 4 and 8 s, each time in vain.
  run_for(19 * kSecond);
  EXPECT_EQ(load("tight").load_failures_total, 4U);
  EXPECT_TRUE(serving_.is_ok()) << serving_.message();
  // Somebody else has left the GPU.
  emulation::machine().memory = std::size_t{1} << 30;
  run_for(60 * kSecond);
  EXPECT_EQ(load("tight").load_failures_total, 4U);
  EXPECT_EQ(held("tight"), replicas / 2);
  EXPECT_EQ(held("roomy"), replicas / 2);
  expect_same(generate(requests()[1]), yardstick(Dtype::bf16)[1], 1);
}

}  // namespace
}  // namespace fulgur

// How a mesh begins and ends: a clean stop, two side by side, what goes wrong at the start in one
// line, status, a detached mesh, and clients that leave in the middle.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "cli/child.hpp"
#include "cli/http_client.hpp"
#include "cli/supervision.hpp"
#include "tests/integration/api.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

void expect_all_gone(const std::vector<pid_t>& pids) {
  for (const pid_t pid : pids) EXPECT_NE(kill(pid, 0), 0) << "process " << pid << " is left";
}

/// One line that names `what`, and the exit code of a failure.
void expect_one_line(const Finished& finished, const std::string& what) {
  EXPECT_GT(finished.exit_code, 0);
  EXPECT_LT(finished.exit_code, 128) << "killed by a signal";
  EXPECT_EQ(std::count(finished.output.begin(), finished.output.end(), '\n'), 1) << finished.output;
  EXPECT_NE(finished.output.find(what), std::string::npos) << finished.output;
}

Finished up(std::uint16_t port, const std::string& model) {
  return run_program(program("fulgur"),
                     {"up", "--quiet", "--port", std::to_string(port), "--model", model});
}

TEST(Lifecycle, SigtermEndsEverything) {
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const auto pids = mesh.pids();
  const std::string directory = mesh.dir().path();
  EXPECT_EQ(pids.size(), 6U);
  EXPECT_TRUE(fs::exists(directory));
  EXPECT_EQ(mesh.stop(), 0);
  expect_all_gone(pids);
  EXPECT_FALSE(fs::exists(directory));
}

TEST(Lifecycle, CtrlCEndsEverything) {
  Mesh mesh({1, 1, "auto", "bf16"});
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const auto pids = mesh.pids();
  EXPECT_EQ(mesh.stop(SIGINT), 0);
  expect_all_gone(pids);
  EXPECT_FALSE(fs::exists(mesh.dir().path()));
}

TEST(Lifecycle, TwoMeshesSideBySide) {
  Mesh one;
  Mesh two({1, 1, "auto", "bf16"});
  for (Mesh* const mesh : {&one, &two}) {
    const Status started = mesh->start();
    ASSERT_TRUE(started.is_ok()) << started.message();
  }
  const auto requests = mixed_requests(4, 12);
  const auto answers = one_by_one(one.url(), requests);
  expect_equal(one_by_one(two.url(), requests), answers);
  const auto pids = one.pids();
  EXPECT_EQ(one.stop(), 0);
  expect_all_gone(pids);
  expect_equal(one_by_one(two.url(), requests), answers);
  EXPECT_TRUE(two.is_whole());
  // A second mesh on a mesh's port is refused, and the first goes on.
  expect_one_line(up(two.port(), tiny_model()), std::to_string(two.port()));
  EXPECT_TRUE(two.is_whole());
  EXPECT_EQ(two.stop(), 0);
}

TEST(Lifecycle, StatusNamesEveryService) {
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  // Members say with their heartbeats which epoch they are in.
  ASSERT_TRUE(eventually([&] {
    const json view = mesh.view();
    return view.is_object() && std::all_of(view["services"].begin(), view["services"].end(),
                                           [&](const json& it) { return it["epoch"] > 0; });
  }));
  const Finished finished =
      run_program(program("fulgur"), {"status", "--json", "--port", std::to_string(mesh.port())});
  EXPECT_EQ(finished.exit_code, 0);
  const json status = json::parse(finished.output, nullptr, false);
  ASSERT_TRUE(status.is_object()) << finished.output;
  ASSERT_EQ(status["services"].size(), 5U);
  for (const json& service : status["services"]) {
    EXPECT_EQ(service["pid"], mesh.pid_of(service["name"])) << service.dump();
    EXPECT_GT(service["epoch"], 0) << service.dump();
    for (const char* const field : {"kind", "endpoint", "replicas", "load"})
      EXPECT_TRUE(service.contains(field)) << field;
    EXPECT_EQ(service["replicas"], service["kind"] == "expert" ? 8 * 16 : 0) << service.dump();
  }
}

TEST(Lifecycle, StatusDoesNotWaitForAnOrchestratorThatHangs) {
  Mesh mesh({1, 1, "auto", "bf16"});
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  ASSERT_EQ(kill(mesh.pid_of("orchestrator"), SIGSTOP), 0);
  const Finished finished =
      run_program(program("fulgur"), {"status", "--json", "--port", std::to_string(mesh.port())},
                  30 * kSecond);
  EXPECT_EQ(finished.exit_code, 0) << finished.output;
  const json status = json::parse(finished.output, nullptr, false);
  ASSERT_TRUE(status.is_object()) << finished.output;
  EXPECT_EQ(status["services"].size(), 4U);  // as the record has them
  ASSERT_EQ(kill(mesh.pid_of("orchestrator"), SIGCONT), 0);
  EXPECT_EQ(mesh.stop(), 0);
}

// Somebody starts a worker by hand under a name that is taken, sees it, and ends it again, kindly or not.
class TakenName : public testing::TestWithParam<int> {};

TEST_P(TakenName, ItsWorkerIsBackOnceTheOtherIsGone) {
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const pid_t own = mesh.pid_of("expert-0");
  const std::string orchestrator = "ipc://" + mesh.dir().path() + "/orchestrator.sock";
  const auto second = cli::spawn(program("fulgur-expert"),
                                 {"--name", "expert-0", "--model", tiny_model(), "--listen",
                                  "ipc://" + scratch_path("expert.sock"), "--orchestrator",
                                  orchestrator, "--admin", "127.0.0.1:0"},
                                 scratch_path("expert"));
  ASSERT_TRUE(second.is_ok()) << second.status().message();
  EXPECT_TRUE(eventually([&] {
    const json view = mesh.view();
    return view.is_object() && std::any_of(view["services"].begin(), view["services"].end(),
                                           [&](const json& it) { return it["pid"] == *second; });
  }));
  EXPECT_EQ(complete(mesh.url(), {{"prompt", "a fox"}, {"max_tokens", 4}}).error, "");
  kill(*second, GetParam());
  int wait_status = 0;
  EXPECT_TRUE(eventually([&] { return waitpid(*second, &wait_status, WNOHANG) == *second; }));
  EXPECT_TRUE(eventually([&] { return mesh.is_whole(); })) << mesh.view().dump();
  EXPECT_EQ(mesh.pid_of("expert-0"), own) << "it was started again";
  EXPECT_EQ(complete(mesh.url(), {{"prompt", "a fox"}, {"max_tokens", 4}}).error, "");
}

INSTANTIATE_TEST_SUITE_P(Signals, TakenName, testing::Values(SIGTERM, SIGKILL),
                         [](const auto& info) { return info.param == SIGTERM ? "term" : "kill"; });

TEST(Lifecycle, APortInUseIsOneLine) {
  // A bound socket of ours, as another program's server would hold it.
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  const auto port = ntohs(address.sin_port);
  expect_one_line(up(port, tiny_model()), std::to_string(port));
  close(fd);
}

TEST(Lifecycle, ABadModelDirectoryIsOneLine) {
  const std::string missing = scratch_path("missing");
  expect_one_line(up(cli::free_port(), missing), missing);
  const std::string empty = scratch_path("empty");
  fs::create_directory(empty);
  expect_one_line(up(cli::free_port(), empty), "config.json");
  const std::string torn = scratch_path("torn");
  fs::copy(tiny_model(), torn);
  fs::resize_file(torn + "/model.safetensors", 100'000);
  expect_one_line(up(cli::free_port(), torn), "model.safetensors");
  const std::string garbled = scratch_path("garbled");
  fs::copy(tiny_model(), garbled);
  std::ofstream(garbled + "/tokenizer.json") << "{";
  expect_one_line(up(cli::free_port(), garbled), "tokenizer.json");
}

// Whatever the machine: nobody has a GPU of this number, and most builds no CUDA at all.
TEST(Lifecycle, AGpuThatIsNotThereIsOneLine) {
  for (const char* service : {"fulgur-attention", "fulgur-expert"}) {
    const std::string here = "ipc://" + scratch_path("x.sock");
    expect_one_line(run_program(program(service),
                                {"--name", "x", "--model", tiny_model(), "--listen", here,
                                 "--orchestrator", "ipc://" + scratch_path("o.sock"), "--backend",
                                 "cuda", "--gpu", "1023"}),
                    std::string(service) + ": cuda backend: ");
  }
  Mesh nobody;
  expect_one_line(run_program(program("fulgur"),
                              {"up", "--quiet", "--port", std::to_string(nobody.port()), "--backend",
                               "cuda", "--gpus", "1023"}),
                  "cuda backend: ");
}

TEST(Lifecycle, ADetachedMeshLetsGoAndGoesDown) {
  const std::uint16_t port = cli::free_port();
  // Through a shell whose output is a pipe: `cat` ends only when nobody holds the pipe open.
  const Finished begun = run_program(
      "/bin/sh", {"-c", program("fulgur") + " up --quiet --detach --model " + tiny_model() +
                            " --port " + std::to_string(port) + " 2>&1 | cat"});
  EXPECT_EQ(begun.exit_code, 0) << begun.output;
  const auto record = cli::RunDir::of(port).read();
  ASSERT_TRUE(record.is_ok()) << record.status().message();
  const auto answer = complete("http://127.0.0.1:" + std::to_string(port), {{"prompt", "a fox"}});
  EXPECT_EQ(answer.error, "");
  const Finished down = run_program(program("fulgur"), {"down", "--port", std::to_string(port)});
  EXPECT_EQ(down.exit_code, 0) << down.output;
  std::vector<pid_t> pids{record->supervisor_pid};
  for (const auto& service : record->services) pids.push_back(service.pid);
  // The supervising process is the init process's child: it may take a moment to be reaped.
  EXPECT_TRUE(eventually([&] { return !fs::exists("/proc/" + std::to_string(pids[0]) + "/exe"); }));
  pids.erase(pids.begin());
  expect_all_gone(pids);
  EXPECT_FALSE(fs::exists(cli::RunDir::of(port).path()));
}

// As under nohup, or in the background of a script.
TEST(Lifecycle, ADetachedStartIgnoresWhatItsCallerIgnores) {
  const std::uint16_t port = cli::free_port();
  const Finished begun = run_program(
      "/bin/sh", {"-c", "trap '' HUP INT; " + program("fulgur") + " up --quiet --detach --model " +
                            tiny_model() + " --port " + std::to_string(port) +
                            " & while [ -e /proc/$!/exe ]; do kill -INT $!; kill -HUP $!; done; wait $!"});
  EXPECT_EQ(begun.exit_code, 0) << begun.output;
  const std::string url = "http://127.0.0.1:" + std::to_string(port);
  EXPECT_EQ(complete(url, {{"prompt", "a fox"}, {"max_tokens", 4}}).error, "");
  const Finished down = run_program(program("fulgur"), {"down", "--port", std::to_string(port)});
  EXPECT_EQ(down.exit_code, 0) << down.output;
}

// Programs beside a worker that never registers: such a mesh is never ready.
TEST(Lifecycle, CtrlCWhileADetachedMeshStartsEndsIt) {
  const std::string programs = scratch_path("programs");
  fs::create_directory(programs);
  fs::copy_file(program("fulgur"), programs + "/fulgur");
  for (const char* const name : {"fulgur-router", "fulgur-attention", "fulgur-orchestrator"})
    fs::create_symlink(program(name), programs + "/" + name);
  std::ofstream(programs + "/fulgur-expert") << "#!/bin/sh\nexec sleep 1000\n";
  fs::permissions(programs + "/fulgur-expert", fs::perms::owner_all);
  const std::uint16_t port = cli::free_port();
  const std::string log = scratch_path("up");
  const auto command = cli::spawn(programs + "/fulgur",
                                  {"up", "--detach", "--quiet", "--model", tiny_model(), "--port",
                                   std::to_string(port)},
                                  log);
  ASSERT_TRUE(command.is_ok()) << command.status().message();
  const auto record = [&] { return cli::RunDir::of(port).read(); };
  ASSERT_TRUE(eventually([&] {  // the router is the last to be started
    const auto now = record();
    return now.is_ok() && std::all_of(now->services.begin(), now->services.end(),
                                      [](const auto& it) { return it.pid != 0; });
  }));
  const auto begun = record();
  std::vector<pid_t> pids{begun->supervisor_pid};
  for (const auto& service : begun->services) pids.push_back(service.pid);
  ASSERT_NE(pids[0], *command);
  kill(*command, SIGINT);
  int wait_status = 0;
  ASSERT_TRUE(eventually([&] { return waitpid(*command, &wait_status, WNOHANG) == *command; }));
  ASSERT_TRUE(WIFEXITED(wait_status)) << cli::describe_exit(wait_status);
  EXPECT_EQ(WEXITSTATUS(wait_status), 1);
  EXPECT_EQ(cli::last_line(log), "fulgur: interrupted, the mesh has ended");
  expect_all_gone(pids);
  EXPECT_FALSE(fs::exists(cli::RunDir::of(port).path()));
}

TEST(Lifecycle, AKilledRouterFreesItsSequencesAndIsBack) {
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const std::string shard = mesh.admin_of("attention-0");
  const json request = {{"prompt", "Once upon a time"},
                        {"max_tokens", 50'000},
                        {"ignore_eos", true},
                        {"stream", true}};
  cli::HttpClient client(mesh.url());
  bool killed = false;
  const auto cut =
      client.post_stream("/v1/completions", request.dump(), 60 * kSecond, [&](std::string_view) {
        if (!std::exchange(killed, true)) mesh.kill_service("router-0");
        return true;
      });
  EXPECT_TRUE(killed);
  EXPECT_FALSE(cut.is_ok()) << "a stream ends with its router";
  EXPECT_TRUE(eventually([&] { return metric(shard, "fulgur_requests_running") == 0; }));
  EXPECT_TRUE(eventually([&] { return mesh.is_whole(); })) << mesh.view().dump();
  EXPECT_EQ(complete(mesh.url(), {{"prompt", "a fox"}, {"max_tokens", 4}}).error, "");
}

TEST(Lifecycle, AClientThatLeavesFreesItsSequence) {
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const std::string shard = mesh.admin_of("attention-0");
  const std::string router = mesh.admin_of("router-0");
  const json request = {{"prompt", "Once upon a time"},
                        {"max_tokens", 50'000},
                        {"ignore_eos", true},
                        {"stream", true}};
  cli::HttpClient client(mesh.url());
  const auto left =
      client.post_stream("/v1/completions", request.dump(), 60 * kSecond, [&](std::string_view) {
        EXPECT_TRUE(eventually([&] { return metric(shard, "fulgur_requests_running") == 1; }));
        return false;
      });
  EXPECT_EQ(left.status().code(), Code::cancelled) << (left.is_ok() ? left->body : "");
  EXPECT_TRUE(eventually([&] { return metric(shard, "fulgur_requests_running") == 0; }));
  EXPECT_TRUE(eventually([&] { return metric(router, "fulgur_router_sequences_running") == 0; }));
  EXPECT_EQ(metric(router, "fulgur_router_disconnects_total"), 1);
  EXPECT_EQ(complete(mesh.url(), {{"prompt", "a fox"}, {"max_tokens", 4}}).error, "");
}

}  // namespace
}  // namespace fulgur::integration

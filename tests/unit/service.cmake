fulgur_test(member_test SOURCES service/member_test.cpp DEPENDS fulgur::service)
fulgur_use_actor_pch(member_test)

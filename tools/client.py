"""Streams an answer from a running server:  client.py [ADDRESS [PROMPT]]"""
import sys

import grpc
from tandem.v1 import chat_pb2, generation_pb2_grpc

address = sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"
prompt = sys.argv[2] if len(sys.argv) > 2 else "Tell me a story about a fox."

stub = generation_pb2_grpc.GenerationStub(grpc.insecure_channel(address))
request = chat_pb2.ChatRequest()
request.messages.add(role=chat_pb2.USER, content=prompt)
request.stopping.max_tokens = 200
for event in stub.ChatStream(request, timeout=60):
    print(event.delta.content, end="", flush=True)
print()
